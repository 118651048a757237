"""What a data URI can be, the same on a disk and on S3, and one clear message for everything else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from moco_ray.config.data import DataConfig
from moco_ray.data.decode import BadImage
from moco_ray.data.manifest import Manifest
from moco_ray.data.reading import read_rows
from moco_ray.data.sources import build_manifest
from moco_ray.storage.storage import Storage, resolve_storage_options
from tests.data.small import png

ODD_NAMES = ["a b.png", "a%2Fb.png", "a+b.png", "a#b.png", "a?b.png", "a*b.png", "a[1].png", "ü 猫.png", "~.png"]


def build(uri: str, **config: Any) -> Manifest:
    return build_manifest(DataConfig(uri=uri, **config), resolve_storage_options(uri, None))


def put(folder: Storage, *names: str) -> str:
    """Write image i under name i; returns the folder's URI."""
    for i, name in enumerate(names):
        folder.write_bytes(folder.join(name), png(i))
    return folder.uri(folder.root)


def put_parquet(folder: Storage, name: str, table: pa.Table, row_group_size: int = 1000) -> str:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=row_group_size)
    folder.write_bytes(folder.join(name), buffer.getvalue())
    return folder.uri(folder.root)


def put_csv(folder: Storage, name: str, table: pa.Table) -> str:
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(table, buffer)
    folder.write_bytes(folder.join(name), buffer.getvalue())
    return folder.uri(folder.join(name))


def names(manifest: Manifest, folder: Storage) -> list[str]:
    root = folder.uri(folder.root) + "/"
    uris = manifest.table["uri"].to_pylist()
    assert all(uri.startswith(root) for uri in uris)
    return [uri[len(root) :] for uri in uris]


def contents(manifest: Manifest) -> list[bytes]:
    uri = manifest.table["uri"][0].as_py()
    return read_rows(manifest, np.arange(len(manifest)), resolve_storage_options(uri, None))


def label_names(manifest: Manifest) -> list[str]:
    return [manifest.classes[label] for label in manifest.labels]


def test_a_folder_of_any_depth_is_sorted_by_name_with_sizes_and_class_folders_as_labels(folder: Storage) -> None:
    uri = put(folder, "dog/2.png", "cat/deep/er/1.png", "dog/1.png", "cat/0.png")
    manifest = build(uri)
    assert names(manifest, folder) == ["cat/0.png", "cat/deep/er/1.png", "dog/1.png", "dog/2.png"]
    assert manifest.classes == ("cat", "dog") and manifest.labels.tolist() == [0, 0, 1, 1]
    assert manifest.table["num_bytes"].to_pylist() == [len(png(i)) for i in (3, 1, 2, 0)]
    assert contents(manifest) == [png(3), png(1), png(2), png(0)]
    assert build(uri + "/").digest == manifest.digest


@pytest.mark.parametrize(
    "layout", [["0.png", "1.png"], ["cat/0.png", "dog/1.png", "2.png", "3.png"], ["all/0.png", "all/1.png"]]
)
def test_as_many_images_beside_class_folders_or_in_one_folder_have_no_labels(tmp_path: Path, layout: list[str]) -> None:
    manifest = build(put(_local(tmp_path), *layout))
    assert manifest.classes == () and set(manifest.labels.tolist()) == {-1} and len(manifest) == len(layout)


def test_hidden_and_other_files_are_skipped_and_extensions_may_be_capitals(tmp_path: Path) -> None:
    folder = _local(tmp_path)
    seen = ["a.JPG", "b.Png", "c.jpeg", "d.webp", "e.TIFF"]
    uri = put(folder, *seen, ".f.png", ".hidden/g.png", "notes.txt", "h.png.bak", "no_extension", "i.parquet")
    assert names(build(uri), folder) == seen


def test_odd_names_are_literal_in_folders(folder: Storage) -> None:
    manifest = build(put(folder, *ODD_NAMES))
    assert names(manifest, folder) == sorted(ODD_NAMES)
    assert contents(manifest) == [png(ODD_NAMES.index(name)) for name in sorted(ODD_NAMES)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("is_absolute", [False, True])
def test_odd_names_are_literal_in_manifests(folder: Storage, kind: str, is_absolute: bool) -> None:
    put(folder, *(f"sub dir/{name}" for name in ODD_NAMES))
    root = folder.uri(folder.root) + "/" if is_absolute else ""
    labels = [f"class {i % 3}" for i in range(len(ODD_NAMES))]
    table = pa.table({"label": labels, "uri": [f"{root}sub dir/{name}" for name in ODD_NAMES]})
    if kind == "csv":
        uri = put_csv(folder, "list.csv", table)
    else:
        put_parquet(folder, "list.parquet", table)
        uri = folder.uri(folder.join("list.parquet"))
    manifest = build(uri)
    assert names(manifest, folder) == [f"sub dir/{name}" for name in sorted(ODD_NAMES)]
    assert contents(manifest) == [png(ODD_NAMES.index(name)) for name in sorted(ODD_NAMES)]
    assert label_names(manifest) == [labels[ODD_NAMES.index(name)] for name in sorted(ODD_NAMES)]


def test_labels_of_a_manifest_are_sorted_as_numbers_and_may_be_missing(tmp_path: Path) -> None:
    table = pa.table({"path": ["a", "b", "c", "d"], "class": pa.array([10, 9, None, 10])})
    manifest = build(put_csv(_local(tmp_path), "list.csv", table))
    assert manifest.classes == ("9", "10") and manifest.labels.tolist() == [1, 0, -1, 1]


def test_a_label_column_can_be_named(tmp_path: Path) -> None:
    table = pa.table({"uri": ["a", "b"], "label": [1, 2], "species": ["x", "x"]})
    assert build(put_csv(_local(tmp_path), "list.csv", table), label_column="species").classes == ("x",)


@pytest.mark.parametrize("is_struct", [False, True])
def test_parquet_files_hold_images_in_bytes_or_hugging_face_structs(folder: Storage, is_struct: bool) -> None:
    for number, first in enumerate((0, 10)):
        cells: list[Any] = [png(i) for i in range(first, first + 10)]
        if is_struct:
            cells = [{"bytes": cell, "path": "ignored.png"} for cell in cells]
        table = pa.table({"label": [i % 3 for i in range(first, first + 10)], "image": cells, "note": ["x"] * 10})
        put_parquet(folder, f"part-{number}.parquet", table, row_group_size=4)
    manifest = build(folder.uri(folder.root))
    assert manifest.kind == "parquet" and manifest.image_column == "image"
    assert names(manifest, folder) == ["part-0.parquet"] * 10 + ["part-1.parquet"] * 10
    assert manifest.table["row_group"].to_pylist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2] * 2
    assert manifest.table["row_in_group"].to_pylist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1] * 2
    assert manifest.classes == ("0", "1", "2") and manifest.labels.tolist() == [i % 3 for i in range(20)]
    assert contents(manifest) == [png(i) for i in range(20)]
    assert len(build(folder.uri(folder.join("part-1.parquet")))) == 10


def test_an_empty_cell_is_a_bad_image(tmp_path: Path) -> None:
    for number, cells in enumerate(([png(0), None], [{"bytes": None, "path": "x"}, None])):
        folder = _local(tmp_path / str(number))
        kind = pa.binary() if number == 0 else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        manifest = build(put_parquet(folder, "a.parquet", pa.table({"image": pa.array(cells, kind)})))
        read = [str(content) if isinstance(content, BadImage) else content for content in contents(manifest)]
        empty = "the cell is empty (null)"
        assert read == [[png(0), empty], [empty, empty]][number]


def test_the_image_column_is_found_by_name_among_several_or_can_be_named(tmp_path: Path) -> None:
    table = pa.table({"mask": [b"m"], "png": [png(0)], "other": [b"o"]})
    uri = put_parquet(_local(tmp_path), "a.parquet", table)
    assert build(uri).image_column == "png"
    assert contents(build(uri, image_column="other")) == [b"o"]


@pytest.mark.parametrize("column", ["image", "photo.jpg"])
@pytest.mark.parametrize("is_struct", [False, True])
@pytest.mark.parametrize(
    ("num_bytes", "window_mb", "expected"), [(50_000, 1.0, 20), (9_000, 0.5, 55), (10, 300.0, 32_768)]
)
def test_windows_hold_as_many_rows_as_the_images_in_parquet_files_allow(
    tmp_path: Path, column: str, is_struct: bool, num_bytes: int, window_mb: float, expected: int
) -> None:
    """Of the image column alone, and as large as they are in memory, however well they were compressed."""
    images: list[object] = [bytes([i]) * num_bytes for i in range(40)]
    cells = [{"bytes": image, "path": None} for image in images] if is_struct else images
    table = pa.table({column: cells, "other": [b"x" * 3000] * 40})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7, compression="zstd", use_dictionary=False)
    manifest = build(str(tmp_path), image_column=column, window_mb=window_mb)
    assert manifest.window_rows is not None and expected - 1 <= manifest.window_rows <= expected


def test_large_row_groups_are_told_with_what_they_cost(tmp_path: Path, said: list[str]) -> None:
    uri = put_parquet(_local(tmp_path), "a.parquet", pa.table({"image": [b"x"] * 640}))
    build(uri)
    assert len(said) == 1 and "640 rows" in said[0] and "20 times" in said[0]
    said.clear()
    build(put_parquet(_local(tmp_path), "a.parquet", pa.table({"image": [b"x"] * 640}), row_group_size=32))
    assert said == []


def test_the_digest_of_a_folder_changes_with_its_images_only(folder: Storage) -> None:
    uri = put(folder, "b.png", "a.png")
    first = build(uri).digest
    folder.write_bytes(folder.join("notes.txt"), b"")
    assert build(uri).digest == first
    folder.write_bytes(folder.join("c.png"), png(2))
    assert build(uri).digest != first


def test_nothing_there_is_said_once(folder: Storage) -> None:
    uri = folder.uri(folder.root)
    with pytest.raises(ValueError, match=f"{uri} does not exist; check the path"):
        build(uri)


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is empty: there is no file in it"):
        build(str(tmp_path))


def test_a_folder_without_images_tells_what_it_holds(folder: Storage) -> None:
    uri = put(folder, "a.txt", "b.txt", "c.MP4", "readme")
    with pytest.raises(ValueError, match=r"holds no image: 4 files were seen \(2 \.txt, 1 \.mp4, 1 no extension\)"):
        build(uri)


def test_a_file_of_another_kind_is_refused(folder: Storage) -> None:
    put(folder, "a.zip")
    with pytest.raises(ValueError, match=r"a\.zip is a file; use a folder of images"):
        build(folder.uri(folder.join("a.zip")))


@pytest.mark.parametrize(
    ("columns", "config", "message"),
    [
        ({"x": [1], "y": [2]}, {}, "has no uri column; its columns are x, y"),
        ({"uri": ["a", ""]}, {}, "has an empty uri in line 3"),
        ({"uri": ["a"]}, {"label_column": "kind"}, r"data\.label-column 'kind' is not in .*; its columns are uri"),
        ({"uri": ["s3://b/a", "/b"]}, {}, "mixes protocols"),
        ({"uri": pa.array([], pa.string())}, {}, "is empty: it names no image"),
    ],
    ids=["no uri column", "empty uri", "no such label", "two protocols", "no rows"],
)
def test_a_csv_that_cannot_be_used_says_why(
    tmp_path: Path, columns: dict[str, Any], config: dict[str, str], message: str
) -> None:
    uri = put_csv(_local(tmp_path), "list.csv", pa.table(columns))
    with pytest.raises(ValueError, match=message):
        build(uri, **config)


@pytest.mark.parametrize("content", [b"", b'uri,label\n"a.png', b"uri,label\na.png\n", b"\xff\xfe\x00uri\n\x00a"])
def test_a_csv_that_does_not_parse_is_a_user_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"list\.csv"):
        build(str(tmp_path / "list.csv"))


@pytest.mark.parametrize(
    ("columns", "config", "message"),
    [
        ({"x": [1], "text": ["t"]}, {}, r"no column of image bytes; its columns are x, text\. Name it"),
        (
            {"one": [b"1"], "two": [b"2"]},
            {},
            r"several columns of bytes \(one, two\); name the one .*--data\.image-column",
        ),
        ({"image": [b"1"]}, {"image_column": "img"}, r"data\.image-column 'img' is not in .*; its columns are image"),
        ({"image": [b"1"]}, {"label_column": "kind"}, r"data\.label-column 'kind' is not in .*; its columns are image"),
        ({"image": [1]}, {"image_column": "image"}, r"data\.image-column 'image' .*int64, not bytes, nor text"),
        ({"images": [[b"1"]]}, {}, r"images holds several images a row \(list<.*; write one image a row"),
        ({"images": [[{"bytes": b"1", "path": ""}]]}, {"image_column": "images"}, "holds several images a row"),
        ({"path": [["a.png"]]}, {}, "path holds several images a row"),
        ({"label": [b"1"]}, {}, r"no column of image bytes; its columns are label\. Name it"),
        ({"image": pa.array([], pa.binary())}, {}, "is empty: its Parquet files have no rows"),
    ],
    ids=[
        "no bytes",
        "ambiguous",
        "no such column",
        "no such label",
        "no image column by type",
        "lists of bytes",
        "lists of structs",
        "lists of places",
        "only labels",
        "no rows",
    ],
)
def test_parquet_that_cannot_be_used_says_why(
    tmp_path: Path, columns: dict[str, Any], config: dict[str, str], message: str
) -> None:
    uri = put_parquet(_local(tmp_path), "a.parquet", pa.table(columns))
    with pytest.raises(ValueError, match=message):
        build(uri, **config)


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"text"])
def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, content: bytes) -> None:
    put_parquet(_local(tmp_path), "a.parquet", pa.table({"image": [png(0)]}))
    (tmp_path / "b.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"b\.parquet is no Parquet file"):
        build(str(tmp_path))


def test_parquet_files_of_different_columns_are_a_user_error_that_names_the_file(tmp_path: Path) -> None:
    put_parquet(_local(tmp_path), "a.parquet", pa.table({"image": [png(0)], "label": [1]}))
    for columns in ({"image": [png(0)]}, {"label": [1]}):
        put_parquet(_local(tmp_path), "b.parquet", pa.table(columns))
        with pytest.raises(ValueError, match=r"b\.parquet has no column"):
            build(str(tmp_path))


def _local(path: Path) -> Storage:
    return Storage.open(str(path), resolve_storage_options(str(path), None))
