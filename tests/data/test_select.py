"""Which images are used: some classes, a share of the labels, and all but those of a file."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from moco_ray.config.eval import EvalConfig
from moco_ray.data.manifest import Manifest, make_manifest
from moco_ray.data.select import keep_classes, keep_fraction, keep_labelled, leave_out, read_excluded, renumbered
from moco_ray.evaluate.eval_set import holdout_mask
from moco_ray.storage.storage import Storage, resolve_storage_options

CLASSES = ("a", "b", "c")


def _manifest(n: int = 300, labels: np.ndarray | None = None, root: str = "/data") -> Manifest:
    labels = np.arange(n) % 3 if labels is None else labels
    return make_manifest(uris=[f"{root}/{i % 7}/{i}.png" for i in range(n)], labels=labels, classes=CLASSES)


def _uris(manifest: Manifest, *, held_out: bool = False) -> set[str]:
    rows = manifest.train_rows()
    rows = manifest.other_rows(rows) if held_out else rows
    return {manifest.uri(int(row)) for row in rows}


def test_classes_that_are_kept_keep_their_order_and_images() -> None:
    manifest = _manifest()
    kept = keep_classes(manifest, ("c", "a"), "data.uri x")
    assert kept.classes == ("a", "c") and len(kept) == 200
    for i in range(0, 200, 17):
        number = int(kept.uri(i).split("/")[-1][:-4])
        assert kept.classes[kept.labels[i]] == CLASSES[number % 3]
    with pytest.raises(ValueError, match=r"data.uri x has no class .?d.?; there are .?a.?, .?b.?, .?c"):
        keep_classes(manifest, ("a", "d"), "data.uri x")


def test_numbers_of_classes_become_those_of_others() -> None:
    labels = np.array([0, 1, 2, -1])
    assert renumbered(_manifest(4, labels), ("c", "x", "a")).labels.tolist() == [2, -1, 0, -1]


def test_images_without_a_label_are_left_out_and_counted() -> None:
    kept, said = keep_labelled(_manifest(6, np.array([0, -1, 2, -1, 1, 0])))
    assert kept.labels.tolist() == [0, 2, 1, 0] and said == "2 images without a label: left out"
    nan = float("nan")
    targets = make_manifest(
        uris=["x", "y", "z"],
        labels=np.full(3, -1),
        classes=(),
        targets=[(nan, nan), (1, nan), (0, 0)],
        target_names=("p", "q"),
    )
    assert keep_labelled(targets)[0].table["uri"].to_pylist() == ["y", "z"]
    assert keep_labelled(_manifest())[1] == ""


@pytest.mark.parametrize("seed", [0, 5])
def test_a_share_is_a_part_of_a_larger_one_balanced_and_without_the_hold_out(seed: int) -> None:
    labels = np.repeat([0, 1, 2], [700, 250, 50])
    manifest = _manifest(1000, labels)
    manifest = manifest.with_holdout(holdout_mask(manifest.labels, EvalConfig(), seed))
    shares = [keep_fraction(manifest, fraction, seed) for fraction in (0.01, 0.1, 0.5, 1.0)]
    trained = [_uris(share) for share in shares]
    assert all(small < large for small, large in pairwise(trained))
    assert {frozenset(_uris(share, held_out=True)) for share in shares} == {frozenset(_uris(manifest, held_out=True))}
    counts = [np.bincount(share.labels[share.train_rows()], minlength=3).tolist() for share in shares]
    of_all = np.bincount(manifest.labels[manifest.train_rows()]).tolist()
    n = len(manifest.train_rows())
    assert counts[0] == [3] * 3 and counts[1] == [round(0.1 * n / 3)] * 3
    assert counts[2] == [min(round(0.5 * n / 3), count) for count in of_all] and counts[3] == of_all
    assert _uris(keep_fraction(manifest, 0.1, seed + 1)) != trained[1]


def test_a_share_of_images_with_several_labels_is_a_share_of_all() -> None:
    manifest = make_manifest(
        uris=[str(i) for i in range(200)],
        labels=np.full(200, -1),
        classes=(),
        targets=[(i % 2, 0) for i in range(200)],
        target_names=("p", "q"),
    )
    assert len(keep_fraction(manifest, 0.1, 0)) == 20


def test_a_list_of_images_to_leave_out_names_them_by_uri_or_path() -> None:
    manifest = _manifest(10)
    kept = leave_out(manifest, frozenset({"/data/0/0.png", "1/1.png", "file:///data/2/2.png", "nowhere.png"}), "/data/")
    assert _uris(manifest) - _uris(kept) == {"/data/0/0.png", "/data/1/1.png", "/data/2/2.png"}
    assert len(leave_out(manifest, frozenset(), "/data")) == 10


def test_a_link_to_the_folder_is_the_folder(tmp_path: Path) -> None:
    (tmp_path / "real" / "1").mkdir(parents=True)
    os.symlink(tmp_path / "real", tmp_path / "link")
    manifest = _manifest(3, root=str(tmp_path / "real"))
    assert len(leave_out(manifest, frozenset({f"{tmp_path}/link/1/1.png"}), str(tmp_path / "real"))) == 2


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("list.txt", "a.png\n\n  b/c.png \r\ns3://x/y.png\n", {"a.png", "b/c.png", "s3://x/y.png"}),
        ("list.txt", "\ufeffa.png\n", {"a.png"}),
        ("list.csv", 'uri,group,keep\n"a, b.png",1,0\nc.png,1,1\n', {"a, b.png", "c.png"}),
        ("list.jsonl", '{"uri": "a.png", "n": 1}\n{"uri": "b.png", "n": 2}\n', {"a.png", "b.png"}),
    ],
)
def test_lists_of_images_to_leave_out(folder: Storage, name: str, content: str, expected: set[str]) -> None:
    folder.write_bytes(folder.join(name), content.encode())
    uri = folder.uri(folder.join(name))
    assert read_excluded(uri, resolve_storage_options(uri, None)) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file"),
        (b"a\xff\n", "is no text .byte 1"),
        (b"name,x\na,1\n", "has no column uri; its columns are name, x"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / ("list.csv" if content and b"," in content else "list.txt")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"data.exclude {path}.*{said}"):
        read_excluded(str(path), resolve_storage_options(str(path), None))
