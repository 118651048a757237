"""Manifest: stable identity, chunks over train rows, and bytes that are checked."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moco_ray.data.manifest import Manifest, make_manifest
from moco_ray.data.order import Order
from moco_ray.storage.storage import Storage, StorageOptions, resolve_storage_options


def options(folder: Storage) -> StorageOptions:
    return resolve_storage_options(folder.uri(folder.root), None)


def files_manifest(folder: Storage, names: list[str]) -> Manifest:
    """Files whose content is their name."""
    for name in names:
        folder.write_bytes(folder.join(name), name.encode())
    return make_manifest(
        uris=[folder.uri(folder.join(name)) for name in names],
        labels=np.arange(len(names)) % 3,
        classes=("a", "b", "c"),
        num_bytes=np.array([len(name.encode()) for name in names]),
    )


def parquet_bytes(images: list[bytes | None], group_rows: int, is_struct: bool = False) -> bytes:
    column: list[object] = [{"bytes": image, "path": None} for image in images] if is_struct else list(images)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": column, "junk": ["x" * 50] * len(images)}), buffer, row_group_size=group_rows)
    return buffer.getvalue()


def parquet_manifest(folder: Storage, group_sizes: list[int], is_struct: bool = False) -> Manifest:
    """Two Parquet files, "a" and "b", of images b"a0", b"a1" and so on in groups of the given sizes."""
    uris, groups, rows = [], [], []
    for name in "ab":
        num_rows = sum(group_sizes)
        images: list[bytes | None] = [f"{name}{row}".encode() for row in range(num_rows)]
        path = folder.join(f"{name}.parquet")
        folder.write_bytes(path, parquet_bytes(images, group_sizes[0], is_struct))
        for group, size in enumerate(group_sizes):
            uris += [folder.uri(path)] * size
            groups += [group] * size
            rows += list(range(size))
    return make_manifest(
        uris=uris,
        labels=np.full(len(uris), -1),
        classes=(),
        row_groups=np.array(groups),
        rows_in_group=np.array(rows),
        image_column="image",
    )


def test_write_and_read_keep_everything(folder: Storage) -> None:
    manifest = parquet_manifest(folder, [3, 2]).with_holdout(np.arange(10) % 2 == 0)
    manifest.write(folder, folder.join("run", "manifest.parquet"))
    again = Manifest.read(folder, folder.join("run", "manifest.parquet"))
    assert again.table.equals(manifest.table) and again.digest == manifest.digest
    assert (again.kind, again.image_column, again.classes) == ("parquet", "image", ())
    assert pickle.loads(pickle.dumps(again)).digest == manifest.digest


def small_manifest(uris: list[str]) -> Manifest:
    return make_manifest(uris=uris, labels=np.full(len(uris), -1), classes=())


def test_the_digest_tells_contents_apart_and_not_their_layout() -> None:
    manifest = small_manifest(["/a", "/b", "/c"])
    split = pa.concat_tables([manifest.table.slice(0, 1), manifest.table.slice(1)])
    assert replace(manifest, table=split).digest == manifest.digest
    assert small_manifest(["/a", "/b", "/c"]).digest == manifest.digest
    others = [
        small_manifest(["/a", "/c", "/b"]),
        small_manifest(["/a", "/b"]),
        small_manifest(["/a", "/b", "/d"]),
        manifest.with_holdout(np.array([True, False, False])),
        replace(manifest, classes=("x",)),
        replace(manifest, window_rows=7),
        replace(manifest, order_version=1),
    ]
    assert len({other.digest for other in others} | {manifest.digest}) == len(others) + 1


def test_manifests_of_the_first_order_keep_their_bytes_and_their_digest(tmp_path: Path) -> None:
    """Figures of the version that knew no other order: its runs find their own manifest again."""
    files = make_manifest(uris=["/a", "/b", "/c"], labels=np.array([0, 1, -1]), classes=("x", "y"))
    rows = make_manifest(
        uris=["/p"] * 3,
        labels=np.full(3, -1),
        classes=(),
        row_groups=np.array([0, 0, 1]),
        rows_in_group=np.array([0, 1, 0]),
        image_column="image",
        window_rows=100,
    )
    storage = Storage.open(str(tmp_path), StorageOptions({}))
    for manifest, digest in (
        (files, "e52eb6aa435453311ada77e3d1279b11b588455f6d7076584ca6dca94812d7c3"),
        (rows, "63985cec928aff0eea378a2228eca0dea89602b7f8616f294c15d054c189d508"),
    ):
        manifest.write(storage, storage.join("new.parquet"))
        new = Manifest.read(storage, storage.join("new.parquet"))
        assert (new.order_version, new.window_rows, new.digest) == (2, manifest.window_rows, manifest.digest)
        old = replace(manifest, order_version=1, window_rows=None)
        assert old.digest == digest != new.digest
        old.write(storage, storage.join("old.parquet"))
        assert set(json.loads(pq.read_schema(tmp_path / "old.parquet").metadata[b"moco_ray"])) == {
            "kind",
            "image_column",
            "classes",
        }
        again = Manifest.read(storage, storage.join("old.parquet"))
        assert again.is_first_order and again.digest == digest


def test_targets_are_written_read_and_part_of_the_digest(folder: Storage) -> None:
    def made(targets: list[tuple[float, ...]], names: tuple[str, ...] = ("p", "q")) -> Manifest:
        uris = ["/a", "/b", "/c"]
        return make_manifest(uris=uris, labels=np.full(3, -1), classes=(), targets=targets, target_names=names)

    nan = float("nan")
    manifest = made([(1, nan), (0, 1), (nan, nan)])
    manifest.write(folder, folder.join("m.parquet"))
    again = Manifest.read(folder, folder.join("m.parquet"))
    assert again.target_names == ("p", "q") and again.has_targets and again.digest == manifest.digest
    np.testing.assert_array_equal(again.targets(np.array([2, 0])) or [], [[nan, nan], [1, nan]])
    kept = again.keep(np.array([False, True, True]))
    np.testing.assert_array_equal(kept.targets(np.arange(2)) or [], [[0, 1], [nan, nan]])
    others = [
        small_manifest(["/a", "/b", "/c"]),
        made([(1, nan), (0, 0), (nan, nan)]),
        made([(1, 0), (0, 1), (nan, nan)]),
        made([(1, nan), (0, 1), (nan, nan)], ("p", "r")),
    ]
    assert len({other.digest for other in others} | {manifest.digest}) == 5
    assert not others[0].has_targets and others[0].targets(np.array([0])) is None


def test_an_order_of_a_newer_version_is_refused_and_not_guessed(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path), StorageOptions({}))
    replace(small_manifest(["/a"]), order_version=3).write(storage, storage.join("manifest.parquet"))
    with pytest.raises(ValueError, match="version 3 of the order"):
        Manifest.read(storage, storage.join("manifest.parquet"))


def test_held_out_rows_are_no_train_rows() -> None:
    manifest = small_manifest(["/a", "/b", "/c", "/d"])
    assert manifest.train_rows().tolist() == [0, 1, 2, 3] and manifest.chunk_starts() is None
    held = manifest.with_holdout(np.array([False, True, False, True]))
    assert held.train_rows().tolist() == [0, 2] and len(held) == 4


def test_chunks_are_at_most_32_train_rows_of_one_row_group() -> None:
    sizes = [(uri, group, size) for uri in ("/a", "/b") for group, size in enumerate((70, 32, 5))]
    manifest = make_manifest(
        uris=[uri for uri, _, size in sizes for _ in range(size)],
        labels=np.full(214, -1),
        classes=(),
        row_groups=np.array([group for _, group, size in sizes for _ in range(size)]),
        rows_in_group=np.array([row for _, _, size in sizes for row in range(size)]),
        image_column="image",
    )
    starts = manifest.chunk_starts()
    assert starts is not None
    assert np.diff(starts, append=214).tolist() == [32, 32, 6, 32, 5] * 2
    held = manifest.with_holdout(np.arange(214) % 3 == 0)
    starts, train = held.chunk_starts(), held.train_rows()
    assert starts is not None
    groups = np.array(held.table["row_group"])[train]
    for first, last in zip(starts, [*starts[1:], len(train)], strict=True):
        assert last - first <= 32 and len(set(groups[first:last])) == 1
    rows = train[Order(0, len(train), starts, 16).rows(np.arange(2 * len(train)))]
    assert (np.sort(rows.reshape(2, -1), axis=1) == train).all()


def test_a_manifest_with_every_row_held_out_has_no_chunks() -> None:
    manifest = small_manifest(["/a"]).with_holdout(np.array([True]))
    assert len(manifest.train_rows()) == 0 and manifest.chunk_starts() is None


def test_moved_images_keep_their_digest_and_others_do_not(folder: Storage) -> None:
    manifest = small_manifest(["/a", "/b"])
    moved = manifest.moved(pa.array(["/x/a", "/x/b"]))
    assert moved.digest == manifest.digest != small_manifest(["/x/a", "/x/b"]).digest
    assert moved.uri(1) == "/x/b" and moved.moved(pa.array(["/y/a", "/y/b"])).digest == manifest.digest
    assert moved.with_holdout(np.array([True, False])).digest != manifest.digest
    later = small_manifest(["/x/a"]).succeeding(moved)
    last = small_manifest(["/x/c"]).succeeding(later)
    assert last.former_digests == (later.digest, manifest.digest)
    last.write(folder, folder.join("manifest.parquet"))
    moved.write(folder, folder.join("moved.parquet"))
    again = [Manifest.read(folder, folder.join(f"{name}.parquet")) for name in ("manifest", "moved")]
    assert again[0].former_digests == last.former_digests and again[0].digest == last.digest
    assert again[1].digest == manifest.digest and again[1].uri(0) == "/x/a"


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no Parquet"])
def test_a_damaged_manifest_is_named(content: bytes, folder: Storage) -> None:
    folder.write_bytes(folder.join("manifest.parquet"), content)
    with pytest.raises(ValueError, match=r"manifest\.parquet is damaged"):
        Manifest.read(folder, folder.join("manifest.parquet"))


@pytest.mark.parametrize("num_files", [0, 200_000])
def test_a_manifest_is_one_chunk_however_it_came_about(num_files: int, folder: Storage) -> None:
    uris = [f"s3://bucket/ä{i}.png" for i in range(num_files)]
    made = make_manifest(uris=uris, labels=np.full(num_files, -1), classes=())
    made.write(folder, folder.join("manifest.parquet"))
    read = Manifest.read(folder, folder.join("manifest.parquet"))
    moved = read.moved(pa.chunked_array([pa.array(uris[:10], pa.string()), pa.array(uris[10:], pa.string())]))
    for manifest in (made, read, moved, made.with_holdout(np.zeros(num_files, dtype=bool))):
        assert {column.num_chunks for column in manifest.table.columns} == {1}
        assert manifest.table.schema.field("uri").type == pa.large_string() and len(manifest) == num_files
        assert manifest.digest == made.digest


def test_the_digest_is_of_every_column_and_every_uri_a_line(folder: Storage) -> None:
    manifest = files_manifest(folder, ["a", "ü", "c"])
    hashed = hashlib.sha256(
        b'{"kind": "files", "image_column": null, "classes": ["a", "b", "c"], "order": {"version": 2, '
        b'"window_rows": null}}'
    )
    for values, kind in (([-1] * 3, "<i4"), ([-1] * 3, "<i4"), ([1, 2, 1], "<i8"), ([0, 1, 2], "<i4"), ([0] * 3, "?")):
        hashed.update(np.array(values, dtype=kind).tobytes())
    hashed.update("".join(f"{folder.uri(folder.join(name))}\n" for name in ("a", "ü", "c")).encode())
    assert manifest.digest == hashed.hexdigest()


def test_the_other_rows_are_all_but_those_named(folder: Storage) -> None:
    manifest = files_manifest(folder, ["a", "b", "c"])
    assert manifest.other_rows(np.array([2, 0])).tolist() == [1] and manifest.other_rows(np.arange(3)).tolist() == []
