"""Lists of images are the same if names, sizes and labels are, wherever they lie."""

from __future__ import annotations

import numpy as np
import pytest

from moco_ray.data.compare import compare
from moco_ray.data.manifest import Manifest, make_manifest


def _list(root: str, names: list[str], sizes: list[int] | None = None, classes: str = "") -> Manifest:
    return make_manifest(
        uris=[f"{root}{name}" for name in names],
        labels=np.arange(len(names)) % 2 if classes else np.full(len(names), -1),
        classes=tuple(classes),
        num_bytes=None if sizes is None else np.array(sizes),
    )


def test_the_same_names_in_another_place_and_order_are_the_same_images() -> None:
    old = _list("/data/images/", ["a/1.png", "b/2.png", "c.png"], [1, 2, 3])
    new = _list("s3://bucket/x y/", ["c.png", "b/2.png", "a/1.png"], [3, 2, 1])
    found = compare(old, "/data/images", new, "s3://bucket/x y/")
    assert found.has_same_images and found.new_rows.tolist() == [2, 1, 0] and found.words() == ""


def test_names_are_below_the_data_uri_though_images_have_a_longer_way_in_common() -> None:
    old = _list("/data/", ["a/1.png", "a/2.png"])
    new = _list("/mnt/", ["a/1.png", "a/2.png", "b/1.png"])
    found = compare(old, "/data", new, "/mnt")
    assert found.added == ["b/1.png"] and not found.removed


def test_lists_with_full_paths_are_compared_below_the_folder_that_these_share() -> None:
    old, new = _list("/data/images/", ["a/1.png", "b/2.png"]), _list("/mnt/disk/", ["a/1.png", "b/2.png"])
    assert compare(old, "/lists/old.csv", new, "/other/new.csv").has_same_images


def test_what_was_removed_added_resized_and_relabelled_is_told_apart() -> None:
    old = _list("/a/", ["1", "2", "3", "4"], [1, 2, 3, -1], "xy")
    new = _list("/b/", ["2", "3", "4", "5"], [2, 30, 4, 5], "xy")
    found = compare(old, "/a", new, "/b")
    assert (found.removed, found.added, found.resized, found.relabelled) == (["1"], ["5"], ["3"], ["2", "3", "4"])
    assert found.new_rows.tolist() == [-1, 0, 1, 2]
    assert found.words() == ("1 removed (1), 1 added (5), 1 changed in size (3), 3 labelled otherwise (2, 3, 4)")


def test_an_image_that_is_listed_twice_is_two_images() -> None:
    old, new = _list("/a/", ["1", "1", "2"]), _list("/a/", ["1", "2"])
    assert compare(old, "/a", new, "/a").removed == ["1"]


def _rows(*paths: str, groups: int = 3) -> Manifest:
    return make_manifest(
        uris=[path for path in paths for _ in range(groups)],
        labels=np.full(len(paths) * groups, -1),
        classes=(),
        row_groups=np.tile(np.arange(groups), len(paths)),
        rows_in_group=np.zeros(len(paths) * groups, dtype=int),
        image_column="image",
    )


def test_rows_of_parquet_files_are_told_by_file_and_place() -> None:
    old = _rows("/a/x.parquet")
    assert compare(old, "/a/x.parquet", _rows("/b/y.parquet"), "/b/y.parquet").has_same_images
    assert len(compare(old, "/a/x.parquet", _rows("/a/x.parquet", groups=2), "/a/x.parquet").removed) == 1


@pytest.mark.parametrize("uri", ["/a", "/a/x.parquet", "/a/*.parquet"])
def test_a_file_beside_a_single_parquet_file_is_added_and_removes_nothing(uri: str) -> None:
    one, two = _rows("/a/x.parquet"), _rows("/a/w.parquet", "/a/x.parquet")
    found = compare(one, uri, two, "/a")
    assert not found.removed and found.added == ["w.parquet"] * 3 and found.new_rows.tolist() == [3, 4, 5]
    back = compare(two, "/a", one, uri)
    assert back.removed == ["w.parquet"] * 3 and not back.added and back.new_rows.tolist() == [-1, -1, -1, 0, 1, 2]


def test_other_boxes_or_labels_of_an_image_are_other_labels() -> None:
    def boxed(root: str, *targets: list[float]) -> Manifest:
        uris = [f"{root}{i}.png" for i in range(len(targets))]
        return make_manifest(uris=uris, labels=np.full(len(uris), -1), classes=("a",), targets=list(targets))

    old = boxed("/data/", [1, 2, 3], [], [np.nan, 1], [0])
    new = boxed("/mnt/", [1, 2, 4], [], [np.nan, 1], [0, 1])
    found = compare(old, "/data", new, "/mnt")
    assert found.has_same_images and found.relabelled == ["0.png", "3.png"]
    assert not compare(old, "/data", old, "/data").relabelled
