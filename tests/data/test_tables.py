"""Lists of images in tables of text: read as they are meant, or one message."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from moco_ray.config.data import DataConfig
from moco_ray.data.listed import Listed
from moco_ray.data.manifest import Manifest
from moco_ray.data.sources import list_source
from moco_ray.storage.storage import StorageOptions
from tests.data.small import png


def listed(path: Path, content: str | bytes, **config: Any) -> Manifest:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list_source(DataConfig(uri=str(path), **config), StorageOptions({})).train


def classes(manifest: Manifest) -> list[str | None]:
    return [None if label < 0 else manifest.classes[label] for label in manifest.labels]


def test_names_of_classes_arrive_as_written(tmp_path: Path) -> None:
    rows = "\n".join(f"{i}.png,{label}" for i, label in enumerate(("001", "01", "1", "1e5", "true", "é", "", "None")))
    found = listed(tmp_path / "a.csv", f"uri,label\n{rows}\n")
    assert classes(found) == ["001", "01", "1", "1e5", "true", "é", None, None]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_say_what_they_are_are_read(tmp_path: Path, encoding: str) -> None:
    found = listed(tmp_path / "a.csv", "uri,label\nü.png,é\nb.png,猫\n".encode(encoding))
    assert sorted(found.classes) == ["é", "猫"]
    assert any(uri.endswith("/ü.png") for uri in found.table["uri"].to_pylist())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "uri,label\na.png,a\nb.png,é\n".encode("latin-1"),
            r"not in UTF-8: line 3 holds the bytes e9; save it as UTF-8",
        ),
        ("uri,label\n\xe9.png,a\n".encode("latin-1"), "line 2 holds the bytes e9 2e 70 6e"),
        ("uri\n" + "a.png\n" * 3 + "日.png\n", None),
        ("uri\na.png\n日.png\n".encode("shift-jis"), "not in UTF-8: line 3"),
    ],
)
def test_other_encodings_are_refused_with_row_and_bytes(
    tmp_path: Path, content: bytes | str, message: str | None
) -> None:
    if message is None:
        assert len(listed(tmp_path / "a.csv", content)) == 2
        return
    with pytest.raises(ValueError, match=message):
        listed(tmp_path / "a.csv", content)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_wide_text_is_named_by_its_nul_bytes(tmp_path: Path, encoding: str) -> None:
    for name in ("a.csv", "a.jsonl"):
        with pytest.raises(ValueError, match=rf"{name} holds NUL bytes, as text in UTF-32 .*iconv -f utf-"):
            listed(tmp_path / name, "uri,label\né.png,a\n".encode(encoding))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "uri;label\nx,1.png;cat\ny.png;dog\n"),
        ("a.csv", "uri\tlabel\nx,1.png\tcat\ny.png\tdog\n"),
        ("a.tsv", "uri\tlabel\nx,1.png\tcat\ny.png\tdog\n"),
        ("a.csv", 'uri, label\r\n"x,1.png", cat\r\n\r\ny.png, dog\r\n'),
        ("a.csv", '"Path","Label","note"\n"x,1.png","cat","two\nlines, and ""quotes"""\ny.png,dog,\n'),
        ("a.csv", 'uri,label\r\n"x,1.png",cat\r\n,\r\ny.png,dog\r\n,\r\n'),
        ("a.csv", "sep=;\r\nuri;label\r\nx,1.png;cat\r\ny.png;dog\r\n"),
        ("a.csv", '"sep=~"\nuri~label\nx,1.png~cat\ny.png~dog\n'),
        ("a.csv", "label|file_name\ncat|x,1.png\ndog|y.png\n"),
        ("a.jsonl", '{"uri": "x,1.png", "label": "cat"}\n\n{"label": "dog", "uri": "y.png", "more": {}}\n'),
        (
            "a.ndjson",
            '{"image": {"path": "x,1.png"}, "label": ["cat"]}\n{"image": {"path": "y.png"}, "label": ["dog"]}\n',
        ),
    ],
)
def test_tables_are_read_however_they_are_written(tmp_path: Path, name: str, content: str) -> None:
    found = listed(tmp_path / name, content)
    assert [uri.rsplit("/", 1)[-1] for uri in found.table["uri"].to_pylist()] == ["x,1.png", "y.png"]
    assert classes(found) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "img/0.png,cat\nimg/1.png,dog\n",
            r"no header: its first row already names an image \(img/0\.png\).*uri,label",
        ),
        ("a.csv", "s3://b/x\ns3://b/y\n", "no header"),
        ("a.csv", "uri,label\na.png,cat\nb.png\n", "line 3 has 1 values and the header 2"),
        ("a.csv", "uri,label\na,b.png,cat\n", "line 2 has 3 values and the header 2"),
        ("a.csv", "uri,label\na.png,cat,\n", r"line 2 has 3 values .*commas\); take away the one too many at its end"),
        ("a.csv", 'uri,label\n"a.png,cat\n', "no table of values separated by commas: line 2"),
        ("a.csv", "uri,uri\na,b\n", "2 columns of the name 'uri'"),
        ("a.csv", "uri,label,label\na,b,c\n", "2 columns of the name 'label'"),
        (
            "a.csv",
            "id,label\na,b\n",
            "has no uri column; its columns are id, label.*accepted: uri, path, url.*file_name",
        ),
        ("a.csv", "uri,label\n", "is empty: it names no image"),
        ("a.csv", "\n\n", "is empty"),
        ("a.csv", "uri,label\na.png,cat\n\n,cat\n", "has an empty uri in line 4"),
        ("a.csv", '\nuri,note\na.png,"two\nlines"\n,x\n', "has an empty uri in line 5"),
        ("a.csv", "sep=;\nuri;label\na;b;c\n", r"line 3 has 3 values and the header 2 \(separated by semicolons\)"),
        ("a.csv", f"uri\na\n{'iVBORw0KGgo' * 30}\n", r"line 3: (iVBORw0KGgo){5}iVBO… is text of 330 characters"),
        ("a.csv", "uri\n" + "a.b/" * 2000, "line 2: (a.b/){14}a.b… is text of 8,000 characters"),
        ("a.jsonl", '{"uri": "a"}\n\n{"uri": ["b.png", "c.png"]}\n', r"line 3: \['b.png', 'c.png'\] is a list"),
        ("a.jsonl", "", "has no uri column|is empty"),
        ("a.jsonl", '{"uri": "a"}\n{"uri"\n', "line 2 is no JSON"),
        ("a.jsonl", '["a.png"]\n', "line 1 is no JSON object"),
        ("a.jsonl", '{"uri": "a.png"}\n{"file": "b.png"}\n', "has an empty uri in line 2"),
    ],
)
def test_a_table_that_cannot_be_used_gives_one_message(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        listed(tmp_path / name, content)
    assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)


def test_a_column_that_is_twice_does_no_harm_where_it_is_not_used(tmp_path: Path) -> None:
    assert listed(tmp_path / "a.csv", "uri,label,x,x\na,1,2,3\nb,2,2,3\n").classes == ("1", "2")
    found = listed(tmp_path / "b.csv", "uri,label,label,kind\na,1,2,3\nb,2,2,4\n", label_column="kind")
    assert found.classes == ("3", "4")


def test_a_column_of_splits_says_what_is_trained_on(tmp_path: Path) -> None:
    rows = ["uri,label,split", "a,x,train", "b,y,train", "c,x,val", "d,y,val", "e,x,test"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    found = list_source(DataConfig(uri=str(tmp_path / "list.csv")), StorageOptions({}))
    assert len(found.train) == 2 and found.test is not None and len(found.test) == 2
    assert found.notes == ["trains on train (2 images); evaluates on val (2 images); left out: test (1 image)"]
    (tmp_path / "list.csv").write_text("\n".join(rows).replace("test", ""))
    assert len(list_source(DataConfig(uri=str(tmp_path / "list.csv")), StorageOptions({})).train) == 2
    (tmp_path / "list.csv").write_text("\n".join(rows).replace("train", "1").replace("val", "2"))
    assert len(list_source(DataConfig(uri=str(tmp_path / "list.csv")), StorageOptions({})).train) == 5


def split_list(path: Path, header: str, *cells: str) -> Listed:
    path.write_text("\n".join([f"uri,{header}", *(f"{i}.png,{cell}" for i, cell in enumerate(cells))]))
    return list_source(DataConfig(uri=str(path)), StorageOptions({}))


@pytest.mark.parametrize(
    "words",
    [
        ("train", "dev_seen", "test_seen"),
        ("train", "holdout"),
        ("Training", "PublicTest", "PrivateTest"),
        ("train", "query", "gallery"),
        ("trainval", "test"),
        ("train", "hold-out"),
    ],
)
def test_a_column_of_splits_may_use_more_words(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert len(split_list(tmp_path / "a.csv", "split", *words).train) == 1


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("split", ["0", "2", "1"]),
        ("split", ["true", "false", "true"]),
        ("partition", ["A", "B", "B"]),
        ("split", ["val", "test", "val"]),
        ("split,fold", ["0,1", "2,1", "1,2"]),
    ],
)
def test_a_column_of_splits_that_is_not_understood_is_said(tmp_path: Path, header: str, cells: list[str]) -> None:
    found = split_list(tmp_path / "a.csv", header, *cells)
    values = ", ".join(sorted({cell.split(",")[0] for cell in cells}))
    assert len(found.train) == 3 and found.test is None
    assert found.notes[0] == (
        f"warning: column '{header.split(',')[0]}' ({values}) does not tell train from test: all rows are trained on; write "
        "train, val or test there"
    )


def test_of_several_columns_of_splits_the_one_that_tells_train_from_test_is_used(tmp_path: Path) -> None:
    found = split_list(tmp_path / "a.csv", "split,fold", "0,train", "1,train", "2,test")
    assert len(found.train) == 2 and found.notes[0].startswith("trains on train (2 images)")
    for cells in (["train", "", "train"], ["test", "test"]):
        assert split_list(tmp_path / "a.csv", "split", *cells).notes == []


def test_splits_of_a_folder_come_from_its_metadata(tmp_path: Path) -> None:
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    rows = ["0.png,x,train", "1.png,y,train", "2.png,x,test", "3.png,y,test", "4.png,x,dev_seen"]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label,split", *rows]))
    found = list_source(DataConfig(uri=str(tmp_path)), StorageOptions({}))
    assert classes(found.train) == ["x", "y"] and found.notes == [
        "labels come from metadata.csv",
        "splits come from metadata.csv",
        "trains on train (2 images); evaluates on test (2 images); left out: val (1 image), other (1 image)",
        "val cannot be classified: 1 class: x (1)",
    ]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,split", *(row[:5] + row[7:] for row in rows)]))
    found = list_source(DataConfig(uri=str(tmp_path)), StorageOptions({}))
    assert len(found.train) == 2 and any("gives no labels" in note for note in found.notes)
    (tmp_path / "metadata.csv").write_text("file_name,label,split\n0.png,x,0\n1.png,y,1\n")
    found = list_source(DataConfig(uri=str(tmp_path)), StorageOptions({}))
    assert len(found.train) == 6 and any("'split' (0, 1) does not tell train from test" in note for note in found.notes)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("file_name,label\nx.png,a\n", "metadata.csv is not used: it names none of the pictures there"),
        ("id,label\n0,a\n", "metadata.csv is not used: it has no uri column (id, label)"),
        (
            "file_name,species\n0.png,a\n",
            "metadata.csv gives no labels: it has no column of labels (label, class, target, cls); its columns are file_name, "
            "species; name one with --data.label-column",
        ),
    ],
)
def test_metadata_that_is_not_used_is_said(tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    (tmp_path / "metadata.csv").write_text(content)
    assert list_source(DataConfig(uri=str(tmp_path)), StorageOptions({})).notes == [why]


def test_lists_named_by_split_in_one_folder_are_used(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    (tmp_path / "train.csv").write_text("uri,label\n0.png,a\n1.png,b\n")
    (tmp_path / "val.csv").write_text("uri,label\n2.png,a\n3.png,b\n")
    found = list_source(DataConfig(uri=str(tmp_path)), StorageOptions({}))
    assert [uri[-5:] for uri in found.train.table["uri"].to_pylist()] == ["0.png", "1.png"]
    assert found.test is not None and found.test.classes == ("a", "b")
    assert "trains on train.csv (2 images); evaluates on val.csv (2 images)" in found.notes


def test_lists_that_name_none_of_the_images_beside_them_are_not_used(tmp_path: Path) -> None:
    for name in ("train", "test"):
        for kind in "ab":
            (tmp_path / name / kind).mkdir(parents=True)
            (tmp_path / name / kind / "0.png").write_bytes(png(0))
        (tmp_path / f"{name}.csv").write_text("filename,label\n0,a\n1,b\n")
    found = list_source(DataConfig(uri=str(tmp_path)), StorageOptions({}))
    assert len(found.train) == 2 and found.test is not None and any("2 .csv" in note for note in found.notes)


def test_images_that_the_lists_of_a_folder_do_not_name_are_counted(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    (tmp_path / "train.csv").write_text("uri,label\n0.png,a\n1.png,b\n")
    found = list_source(DataConfig(uri=str(tmp_path)), StorageOptions({}))
    assert len(found.train) == 2 and any("3 pictures that these lists do not name" in note for note in found.notes)


def test_one_list_in_a_folder_without_images_is_used_and_of_two_one_must_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("uri\nx.png\n")
    assert len(list_source(DataConfig(uri=str(tmp_path)), StorageOptions({})).train) == 1
    (tmp_path / "b.csv").write_text("uri\nx.png\n")
    with pytest.raises(ValueError, match=r"holds no image.*name one of its lists: .*/a\.csv"):
        list_source(DataConfig(uri=str(tmp_path)), StorageOptions({}))


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_labels_of_a_folder_come_from_its_metadata(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    for i in range(3):
        (tmp_path / "sub" / f"{i}.png").write_bytes(png(i))
    table = "file_name,label\n0.png,x\n2.png,y\n"
    lines = '{"file_name": "0.png", "label": "x"}\n{"file_name": "2.png", "label": "y"}\n'
    (tmp_path / "sub" / name).write_text(table if name.endswith("csv") else lines)
    found = list_source(DataConfig(uri=str(tmp_path)), StorageOptions({}))
    assert classes(found.train) == ["x", None, "y"]
    assert found.notes == [f"labels come from sub/{name}"]


def test_a_list_that_cannot_be_read_beside_a_good_one_is_said(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    (tmp_path / "train.csv").write_text("uri,label\n0.png,a\n1.png,b\n")
    for content, why in (
        ("uri,label\n2.png\n", r"not used: .*val.csv is no table: .*1 values and the header 2"),
        ("uri,label\nx.png,a\n", "val.csv is not used: it names none of the pictures there"),
        ("id,label\n2,a\n", r"val.csv is not used: it has no uri column \(id, label\)"),
    ):
        (tmp_path / "val.csv").write_text(content)
        found = list_source(DataConfig(uri=str(tmp_path)), StorageOptions({}))
        assert len(found.train) == 2 and any(re.search(why, note) for note in found.notes)


@pytest.mark.parametrize("folder", ["", "train", "train/a"])
def test_metadata_among_images_that_cannot_be_read_says_why_it_is_read(tmp_path: Path, folder: str) -> None:
    for path in ("train/a/0.png", "train/b/1.png", "notes/x.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(png(0))
    (tmp_path / "notes" / "metadata.csv").write_text("uri,label\nx\n")  # describes no image
    assert list_source(DataConfig(uri=str(tmp_path)), StorageOptions({})).train.classes == ("a", "b")
    (tmp_path / folder / "metadata.csv").write_text("uri,label\nx\n")
    with pytest.raises(ValueError, match=r"metadata\.csv is no table.* It is read because .*rename or move it"):
        list_source(DataConfig(uri=str(tmp_path)), StorageOptions({}))


def test_why_there_are_no_classes_is_said(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("uri,species\na,x\n")
    words = list_source(DataConfig(uri=str(tmp_path / "list.csv")), StorageOptions({})).words
    assert "no classes" in words and "label, class, target, cls" in words and "--data.label-column" in words
    with pytest.raises(ValueError, match="its columns are uri, species"):
        list_source(DataConfig(uri=str(tmp_path / "list.csv"), label_column="kind"), StorageOptions({}))


@pytest.mark.parametrize(
    ("train", "test", "train_classes", "test_classes"),
    [
        (["0.0", "1.0"], ["0.0", "1.0", "unknown"], ("0.0", "1.0"), ("0.0", "1.0", "unknown")),
        (["0", "10", "9"], ["-1", "9", "10"], ("0", "9", "10"), ("9", "10")),
        (["-1", "1", "1"], ["2", "-1", "1"], ("1",), ("1", "2")),
        (["-2", "-1"], ["-1", "1"], ("-2", "-1"), ("-1", "1")),
    ],
)
def test_classes_of_the_parts_of_a_table_have_the_same_names(
    tmp_path: Path, train: list[str], test: list[str], train_classes: tuple[str, ...], test_classes: tuple[str, ...]
) -> None:
    cells = [f"{label},{split}" for split, labels in (("train", train), ("test", test)) for label in labels]
    rows = "\n".join(f"{i}.png,{cell}" for i, cell in enumerate(cells))
    (tmp_path / "a.csv").write_text(f"uri,label,split\n{rows}\n")
    found = list_source(DataConfig(uri=str(tmp_path / "a.csv")), StorageOptions({}))
    assert found.test is not None and (found.train.classes, found.test.classes) == (train_classes, test_classes)
    wanted = [label if label in train_classes else None for label in train]
    assert classes(found.train) == wanted


@pytest.mark.parametrize(
    ("header", "row", "config", "place"),
    [
        ("file,image,label", "000{i},{i}.png,x", {}, "{i}.png"),
        ("path,filename,label", "{i},{i}.jpg,x", {}, "{i}.jpg"),
        ("file,image,label", "a/000{i},{i}.png,x", {}, "a/000{i}"),
        ("path,image,label", "{i}.raw,{i}.png,x", {}, "{i}.raw"),
        ("file,name,label", "000{i},{i}.png,x", {}, "000{i}"),
        ("file,image,label", "000{i},{i}.png,x", {"image_column": "file"}, "000{i}"),
        ("path,where,label", "{i}.png,{i}.jpg,x", {"image_column": "where"}, "{i}.jpg"),
    ],
)
def test_of_several_columns_of_places_one_with_places_is_used_or_the_one_that_is_named(
    tmp_path: Path, header: str, row: str, config: dict[str, str], place: str
) -> None:
    rows = "\n".join(row.format(i=i) for i in range(3))
    found = listed(tmp_path / "a.csv", f"{header}\n{rows}\n", **config)
    uris = found.table["uri"].to_pylist()
    assert [uri.endswith(f"/{place.format(i=i)}") for i, uri in enumerate(uris)] == [True] * 3


def test_a_column_of_places_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.image-column 'img' is not in .*; its columns are uri, label"):
        listed(tmp_path / "a.csv", "uri,label\na.png,x\n", image_column="img")
