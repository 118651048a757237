"""Images with boxes are read as they were meant, and what is wrong with them is said by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco_ray.data.boxes.read import has_split, read_boxes
from moco_ray.data.boxes.table import BoxedImages, bad_lines
from moco_ray.storage.storage import resolve_storage_options

OPTIONS = resolve_storage_options("", None)


def read(
    uri: object, annotations: object = "", split: str = "trainval", classes: tuple[str, ...] = (), **more: bool
) -> BoxedImages:
    return read_boxes(str(uri), str(annotations), split, classes, OPTIONS, OPTIONS, **more)


def box(name: str, *corners: object, more: str = "") -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    inside = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{more}<bndbox>{inside}</bndbox></object>"


def voc(folder: Path, boxes: dict[str, str], *, lists: dict[str, str] | None = None) -> Path:
    for part in ("JPEGImages", "Annotations"):
        (folder / part).mkdir(parents=True)
    for name, objects in boxes.items():
        Image.new("RGB", (40, 30)).save(folder / "JPEGImages" / f"{name}.jpg")
        size = "<size><width>40</width><height>30</height></size>"
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    for name, lines in (lists or {}).items():
        (folder / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text(lines)
    return folder


def coco(folder: Path, **changed: object) -> Path:
    (folder / "images").mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (40, 30)).save(folder / "images" / f"{name}.jpg")
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 40, "height": 30}, {"id": 9, "file_name": "b.jpg"}],
        "categories": [{"id": 3, "name": "dog"}, {"id": 90, "name": "cat"}],
        "annotations": [
            {"image_id": 7, "category_id": 90, "bbox": [1, 2, 10, 5]},
            {"image_id": 7, "category_id": 3, "bbox": [0.5, 0, 20, 30], "iscrowd": 1},
        ],
        **changed,
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder / "boxes.json"


def test_boxes_of_voc_count_pixels_from_one_and_include_the_last(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    objects = box("dog", 1, 1, 40, 30) + box("cat", 5, 6, 5.5, 9, more=f"<difficult>1</difficult>{part}")
    found = read(voc(tmp_path, {"one": objects, "two": ""}))
    assert found.classes == ("cat", "dog") and found.bad == []
    assert [Path(uri).name for uri in found.uris] == ["one.jpg", "two.jpg"]
    assert found.targets[0].tolist() == [[0, 0, 40, 30, 1, 0, 0], [4, 5, 5.5, 9, 0, 1, 0]]
    assert found.targets[1].shape == (0, 7) and found.targets[0].dtype == np.float32
    words = "\n".join(found.words())
    assert "2 boxes in 2 images (1 cat, 1 dog)" in words and "1 are difficult" in words and "1 images without" in words


def test_several_years_are_joined_and_lists_are_followed(tmp_path: Path) -> None:
    dog = box("dog", 1, 1, 9, 9)
    old = voc(tmp_path / "VOC2007", {"a": dog, "b": dog}, lists={"trainval": "b  1\n\n", "test": "a\n"})
    new = voc(tmp_path / "VOC2012", {"c": dog, "d": dog}, lists={"trainval": "d\nc\n"})
    found = read(f"{old} + {new}")
    assert [Path(uri).relative_to(tmp_path).as_posix() for uri in found.uris] == [
        f"VOC2007/JPEGImages/{'b'}.jpg",
        "VOC2012/JPEGImages/d.jpg",
        "VOC2012/JPEGImages/c.jpg",
    ]
    assert has_split(str(old), "test", OPTIONS) and not has_split(f"{old} + {new}", "test", OPTIONS)
    with pytest.raises(ValueError, match=r"VOC2012 has no list ImageSets/Main/test.txt; it has trainval"):
        read(new, split="test")
    with pytest.raises(ValueError, match=r"has no JPEGImages/ and Annotations/, but .*VOC2007 \+ .*VOC2012'"):
        read(tmp_path)


def test_boxes_of_coco_have_sides_and_images_without_any_stay(tmp_path: Path) -> None:
    found = read(tmp_path / "images", coco(tmp_path))
    assert found.classes == ("cat", "dog")
    assert found.targets[0].tolist() == [[1, 2, 11, 7, 0, 0, 0], [0.5, 0, 20.5, 30, 1, 0, 1]]
    assert [Path(uri).name for uri in found.uris] == ["a.jpg", "b.jpg"] and len(found.targets[1]) == 0
    assert "1 are crowds" in "\n".join(found.words())


def test_bad_boxes_are_left_out_with_their_names(tmp_path: Path) -> None:
    wrong = {
        "inverted": box("dog", 20, 1, 10, 9),
        "empty": box("dog", 10, 1, 9, 9),
        "outside": box("dog", 50, 1, 60, 9),
        "infinite": box("dog", "inf", 1, 60, 9),
        "text": box("dog", "x", 1, 60, 9),
        "none": "<object><name>dog</name></object>",
        "cut": box("dog", 30, 10, 45, 35),
    }
    folder = voc(tmp_path, wrong)
    Image.new("RGB", (4, 4)).save(folder / "JPEGImages" / "lonely.jpg")
    (folder / "Annotations" / "ghost.xml").write_text("<annotation/>")
    found = read(folder)
    reasons = {Path(bad.place).stem: (bad.what, bad.reason) for bad in found.bad}
    assert reasons == {
        "ghost": ("image", "there is no image of that name in JPEGImages"),
        "lonely": ("image", "there is no Annotations/lonely.xml"),
        "inverted": ("box", "box 19 0 10 9 of 'dog' is inverted"),
        "empty": ("box", "box 9 0 9 9 of 'dog' is empty"),
        "outside": ("box", "box 49 0 60 9 of 'dog' lies outside of the image of 40 x 30"),
        **{
            name: ("box", "a box of 'dog' has corners that are no finite numbers")
            for name in ("infinite", "text", "none")
        },
    }
    assert found.targets[found.uris.index(str(folder / "JPEGImages" / "cut.jpg"))].tolist() == [
        [29, 9, 40, 30, 0, 0, 0]
    ]
    words = "\n".join(found.words())
    assert (
        "left out 6 boxes, listed in bad_boxes.jsonl" in words
        and "and 1 more" in words
        and "left out 2 images" in words
    )
    lines = [json.loads(line) for line in bad_lines(found.bad).splitlines()]
    assert len(lines) == 8 and {line["what"] for line in lines} == {"box", "image"}


def test_classes_that_were_not_asked_for_are_left_out(tmp_path: Path) -> None:
    folder = voc(tmp_path, {"a": box("dog", 1, 1, 9, 9) + box("cat", 1, 1, 9, 9)})
    found = read(folder, classes=("dog",))
    assert found.classes == ("dog",) and len(found.targets[0]) == 1
    assert found.bad[0].reason == "class 'cat' is not among data.classes"
    with pytest.raises(ValueError, match=r"data.classes cow: .* has no box of that class; its classes are cat, dog"):
        read(folder, classes=("dog", "cow"))
    assert read(folder, classes=("dog", "cow"), needs_all=False).classes == (
        "dog",
        "cow",
    )  # a class to test on has none


def test_what_coco_names_and_is_not_there_is_left_out(tmp_path: Path) -> None:
    ghosts = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "ghost.jpg"}]
    boxes = [{"image_id": i, "category_id": 3, "bbox": [1, 2, 10, 5]} for i in (1, 5)]
    boxes += [{"image_id": 1, "category_id": 4, "bbox": None}]
    found = read(tmp_path / "images", coco(tmp_path, images=ghosts, annotations=boxes), classes=("dog",))
    assert len(found) == 1 and len(found.targets[0]) == 1
    assert [bad.reason for bad in found.bad] == [
        "boxes of image_id 5, which the file does not name",
        "there is no such image",
        "class 'category_id 4' is not among data.classes",
    ]


BOMB = '<!DOCTYPE a [<!ENTITY x "boom">]><annotation>&x;</annotation>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{}", "a.xml is no XML of Pascal VOC"),
        (b"<annotation>", "a.xml is no XML of Pascal VOC"),
        (b"<html></html>", "begins with <html> instead of <annotation>"),
        (BOMB.encode(), "it has a DOCTYPE"),
        (f'<?xml version="1.0" encoding="utf-16"?>{BOMB}'.encode("utf-16"), "it has a DOCTYPE"),
    ],
)
def test_a_file_that_is_no_xml_of_voc_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    folder = voc(tmp_path, {"a": ""})
    (folder / "Annotations" / "a.xml").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("<a/>", "boxes.json is no JSON"),
        ("[1]", "has no list of images and annotations and categories"),
        ('{"images": [], "annotations": []}', "has no list of categories"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "an entry has no 'file_name'"),
        ('{"images": [{"id": 1, "file_name": "z.jpg"}], "annotations": [], "categories": []}', "none of the 1 images"),
        (
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}',
            "a box that can be used",
        ),
    ],
)
def test_a_file_that_is_no_json_of_coco_is_named(tmp_path: Path, content: str, reason: str) -> None:
    path = coco(tmp_path)
    path.write_text(content)
    with pytest.raises(ValueError, match=reason):
        read(tmp_path / "images", path)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder of Pascal VOC"):
        read(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        read(tmp_path / "nothing")
