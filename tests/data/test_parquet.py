"""Parquet files: any type of column gives labels or one message; images in bytes or beside the file."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moco_ray.config.data import DataConfig
from moco_ray.data.listed import Listed
from moco_ray.data.sources import list_source
from moco_ray.storage.storage import Storage, StorageOptions
from tests.data.small import png
from tests.data.test_sources import build, contents, names, put, put_parquet
from tests.data.test_tables import classes

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def listed(uri: Path, **config: Any) -> Listed:
    return list_source(DataConfig(uri=str(uri), **config), StorageOptions({}))


def write(folder: Path, columns: dict[str, Any] | pa.Table, name: str = "a.parquet") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path)
    return folder


def images(n: int) -> list[bytes]:
    return [png(i) for i in range(n)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array([10, -1, 9], pa.int8()), ["10", None, "9"]),
        (pa.array([0.0, None, 1.0]), ["0", None, "1"]),
        (pa.array([0.0, float("nan"), 1.0], pa.float16()), ["0", None, "1"]),
        (pa.array([True, None, False]), ["True", None, "False"]),
        (pa.array(["cat", "None", "dog"]).dictionary_encode(), ["cat", None, "dog"]),
        (pa.array(["001", "", "1"], pa.large_string()), ["001", None, "1"]),
        (pa.array([b"cat", None, b"dog"]), ["cat", None, "dog"]),
        (pa.array([Decimal("1.00"), None, Decimal("2.00")]), ["1", None, "2"]),
        (pa.array([[1], [], [2]]), ["1", None, "2"]),
        (pa.array([["cat"], None, ["dog"]]), ["cat", None, "dog"]),
        (pa.array([None, None, None]), [None] * 3),
    ],
)
def test_labels_of_any_type_are_classes_where_they_can_be(
    tmp_path: Path, labels: pa.Array, expected: list[str]
) -> None:
    found = listed(write(tmp_path, {"image": images(3), "label": labels}))
    assert classes(found.train) == expected


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (pa.array([[0, 1], [2]]), "several labels for one picture"),
        (pa.array([["a", "b"], []]), "several labels"),
        (pa.array([0.3, 0.7]), "a number that is no class"),
        (pa.array([Decimal("0.5"), Decimal("1.0")]), "a number that is no class"),
        (pa.array([{"x": 1}, {"x": 2}]), "nested fields"),
        (pa.array([[{"box": [1, 2]}], []]), "nested fields"),
        (pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())), "several labels"),
        (pa.array([datetime.datetime(2026, 1, 1)] * 2, pa.timestamp("ns")), "holds times"),
        (pa.array([1, 2], pa.timestamp("ns", "UTC")), "holds times"),
        (pa.array([1, 2], pa.duration("ns")), "holds times"),
        (pa.array([1, 2], pa.time64("ns")), "holds times"),
        (pa.array([datetime.date(2026, 1, 1)] * 2), "holds times"),
        (pa.array([b"\xff\xfe", b"\x00\xff"]), "bytes that are no text"),
        (pa.array([[[1, 2]], [[3]]]), "several labels"),
    ],
)
def test_labels_that_are_no_classes_are_said_and_refused_only_where_they_were_named(
    tmp_path: Path, labels: pa.Array, message: str
) -> None:
    uri = write(tmp_path, {"image": images(2), "label": labels})
    found = listed(uri)
    assert found.train.classes == () and "no classes: column 'label'" in found.words and message in found.words
    assert "--data.label-column" in found.words
    with pytest.raises(ValueError, match=rf"data\.label-column 'label' .*{message}"):
        listed(uri, label_column="label")


def test_a_column_name_twice_is_one_message_and_only_where_it_is_used(tmp_path: Path) -> None:
    table = pa.table([images(2), [1, 2], [3, 4], [5, 6]], names=["image", "label", "label", "kind"])
    write(tmp_path, table)
    with pytest.raises(ValueError, match="2 columns of the name 'label'"):
        listed(tmp_path)
    assert listed(tmp_path, label_column="kind").train.classes == ("5", "6")
    twice = pa.table([images(2), images(2)], names=["image", "image"])
    with pytest.raises(ValueError, match="2 columns of the name 'image'"):
        listed(write(tmp_path / "twice", twice))


def test_structs_without_bytes_give_the_images_beside_the_file(folder: Storage) -> None:
    put(folder, "img/0.png", "img/1.png")
    cells = [{"bytes": None, "path": f"./img/{i}.png"} for i in range(2)]
    uri = put_parquet(folder, "a.parquet", pa.table({"image": pa.array(cells, STRUCT), "label": ["x", "y"]}))
    manifest = build(f"{uri}/a.parquet")
    assert names(manifest, folder) == ["img/0.png", "img/1.png"] and contents(manifest) == images(2)
    assert classes(manifest) == ["x", "y"]


def test_structs_without_bytes_that_name_nothing_are_refused(tmp_path: Path) -> None:
    cells = pa.array([{"bytes": None, "path": "gone.png"}], STRUCT)
    with pytest.raises(ValueError, match=r"column image\.path names images beside.*gone\.png is not there"):
        listed(write(tmp_path, {"image": cells}))


@pytest.mark.parametrize("field", ["url", "uri", "path"])
def test_structs_and_text_name_images(tmp_path: Path, field: str) -> None:
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    cells = [{field: f"{i}.png", "width": 1} for i in range(2)]
    assert (
        len(
            listed(
                write(tmp_path / "a", {"image": [{**c, field: f"../{c[field]}"} for c in cells]}) / "a.parquet"
            ).train
        )
        == 2
    )
    assert contents(listed(write(tmp_path / "b", {"image": ["../0.png", "../1.png"]})).train) == images(2)


def test_several_files_of_uris_are_one_list_in_which_each_image_counts_once(folder: Storage) -> None:
    put(folder, *(f"img/{i}.png" for i in range(4)))
    for part, rows in enumerate(([0, 1, 2], [2, 3])):
        table = pa.table({"uri": [f"../img/{i}.png" for i in rows], "label": [str(i % 2) for i in rows]})
        put_parquet(folder, f"lists/{part}.parquet", table)
    manifest = build(folder.uri(folder.join("lists")))
    assert contents(manifest) == images(4) and classes(manifest) == ["0", "1", "0", "1"]


@pytest.mark.parametrize("column", ["label", "kind"])
def test_folders_such_as_label_3_give_a_column(tmp_path: Path, column: str) -> None:
    for value in ("3", "a%20b", "__HIVE_DEFAULT_PARTITION__"):
        write(tmp_path, {"image": images(2)}, f"{column}={value}/part.parquet")
    named = {} if column == "label" else {"label_column": column}
    assert classes(listed(tmp_path, **named).train) == ["3", "3", None, None, "a b", "a b"]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-00000-of-00002.parquet", "data/test-00000-of-00001.parquet"),
        ("train.parquet", "validation.parquet"),
        ("train/0000.parquet", "val/0000.parquet"),
        ("split=train/a.parquet", "split=test/a.parquet"),
        ("train-00000-of-00001.parquet", "test_clean-00000-of-00001.parquet"),
        ("trainval.parquet", "holdout.parquet"),
    ],
)
def test_parquet_files_are_named_by_split(tmp_path: Path, train: str, test: str) -> None:
    write(tmp_path, {"image": images(3), "label": [0, 1, 1]}, train)
    write(tmp_path, {"image": images(2), "label": [0, 1]}, test)
    found = listed(tmp_path)
    assert len(found.train) == 3 and found.test is not None and len(found.test) == 2
    assert any(note.startswith("trains on ") and "evaluates on" in note for note in found.notes)
    assert len(listed(tmp_path / train).train) == 3


def test_train_and_val_in_one_file_is_not_used_beside_both(tmp_path: Path) -> None:
    for number, name in enumerate(("train", "trainval", "val")):
        write(tmp_path, {"image": images(number + 1), "label": list(range(number + 1))}, f"{name}.parquet")
    found = listed(tmp_path)
    assert len(found.train) == 1 and found.test is not None and len(found.test) == 3


def test_arrays_of_numbers_are_no_images_and_named_so(tmp_path: Path) -> None:
    pixels = pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((2, 3, 3), np.uint8))
    for name, column in (("list", [[1, 2], [3]]), ("tensor", pixels)):
        with pytest.raises(
            ValueError, match=r"no column of image bytes: image is .* and not the bytes of an encoded image"
        ):
            listed(write(tmp_path / name, {"image": column}))


def test_rows_without_bytes_are_counted(tmp_path: Path) -> None:
    cells = pa.array(
        [{"bytes": png(0), "path": "a"}, {"bytes": None, "path": "b"}, {"bytes": png(1), "path": None}], STRUCT
    )
    assert any("1 of 3 rows have no image bytes" in note for note in listed(write(tmp_path, {"image": cells})).notes)


@pytest.mark.parametrize("place", ["path", "url", "image", "File_Name"])
@pytest.mark.parametrize(
    "others",
    [
        {"sha256": [b"\xff" * 32, b"\xfe" * 32]},
        {"label": [b"x", b"y"]},
        {"mask": [png(2), png(3)]},
        {"key": [b"0", b"1"], "md5": [b"2", b"3"]},
    ],
)
def test_bytes_that_are_no_images_beside_a_column_of_places_are_not_read_as_images(
    tmp_path: Path, place: str, others: dict[str, list[bytes]]
) -> None:
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    for texts in (["0.png", "1.png"], [b"0.png", b"1.png"]):  # Spark, Hive and Impala may write text as bytes
        write(tmp_path, {place: texts, **others})
        assert contents(listed(tmp_path / "a.parquet").train) == images(2)


@pytest.mark.parametrize("name", ["data", "Image", "file", "photo"])
@pytest.mark.parametrize("is_beside_places", [False, True])
def test_bytes_of_images_are_images_under_any_name(tmp_path: Path, name: str, is_beside_places: bool) -> None:
    places = (
        {"filename": ["gone/0.png", "gone/1.png"], "sha256": [b"\xff" * 32, b"\xfe" * 32]} if is_beside_places else {}
    )
    found = listed(write(tmp_path, {name: images(2), **places})).train
    assert found.image_column == name and contents(found) == images(2)


def test_bytes_in_bytes_are_no_image(tmp_path: Path) -> None:
    cells = pa.array([{"path": "0.png", "bytes": {"bytes": png(0)}}])
    (tmp_path / "0.png").write_bytes(png(1))
    assert contents(listed(write(tmp_path, {"image": cells}) / "a.parquet").train) == [png(1)]


def test_a_column_of_places_can_be_named(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    cells = pa.array([{"path": f"{i}.png"} for i in range(2)])
    write(tmp_path, {"image": [b"x", b"y"], "path": ["x", "y"], "where": ["0.png", "1.png"], "at": cells})
    for name in ("where", "at"):
        assert contents(listed(tmp_path / "a.parquet", image_column=name).train) == images(2)


def test_columns_of_splits_are_chosen_by_what_they_hold_and_others_are_said(tmp_path: Path) -> None:
    columns = {"image": images(3), "label": [0, 1, 1], "split": [0, 1, 2]}
    for fold in (["train", "train", "test"], [b"train", b"train", b"dev_seen"]):
        assert len(listed(write(tmp_path, {**columns, "fold": fold})).train) == 2
    found = listed(write(tmp_path, columns))
    assert len(found.train) == 3 and "column 'split' (0, 1, 2) does not tell train from test" in found.notes[0]
    write(tmp_path / "parts", columns, "train.parquet")
    assert not any("does not tell" in note for note in listed(write(tmp_path / "parts", columns, "test.parquet")).notes)


def test_ids_are_no_places_where_another_column_has_these(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    for ids in (["00", "01"], [b"00", b"01"]):
        write(tmp_path, {"file": ids, "image": ["0.png", "1.png"]})
        assert contents(listed(tmp_path / "a.parquet").train) == images(2)


@pytest.mark.parametrize("codec", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("name", ["image", "data"])
def test_a_row_group_that_does_not_decode_does_not_end_a_listing(tmp_path: Path, codec: str, name: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({name: images(3)}), path, compression=codec)
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(0)
    content = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(bytes(content))
    assert len(listed(tmp_path).train) == 3


def test_a_few_bad_images_beside_places_leave_the_others_images(tmp_path: Path) -> None:
    found = listed(write(tmp_path, {"data": [b"", b"<html>", *images(2), None], "file_name": list("abcde")})).train
    assert found.image_column == "data"
