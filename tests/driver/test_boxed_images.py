"""Which images a detector is trained on and which it is tested on."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from moco_ray.config import Config
from moco_ray.driver.images.listing import list_images
from tests.boxed import shapes_config, write_shapes
from tests.data.test_boxes import coco


def config_of(uri: Path, tmp_path: Path, *, eval_uri: str = "", **detection: object) -> Config:
    config = shapes_config(uri, tmp_path / "runs")
    return replace(
        config,
        detection=replace(config.detection, **detection),
        eval=replace(config.eval, uri=eval_uri, holdout_fraction=0.25),
    )


def test_the_test_list_of_the_same_folder_is_tested_on(tmp_path: Path) -> None:
    images = list_images(config_of(write_shapes(tmp_path / "voc", 6, 2), tmp_path))
    assert images.test is not None and (len(images.train), len(images.test)) == (6, 2)
    assert images.train.classes == images.test.classes == ("disc", "square") and images.notes == {}
    targets = images.train.targets(images.train.train_rows())
    assert targets is not None and all(len(own) % 7 == 0 for own in targets)


def test_without_a_test_list_a_share_is_held_out(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path / "voc", 8, 2)
    (folder / "ImageSets" / "Main" / "test.txt").unlink()
    images = list_images(config_of(folder, tmp_path))
    assert images.test is None and len(images.train) == 8 and len(images.train.train_rows()) == 6


def test_images_to_test_on_are_not_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_shapes(tmp_path / "voc", 6, 2)
    (folder / "ImageSets" / "Main" / "test.txt").write_text("0\n7\n")
    with caplog.at_level(logging.WARNING, "moco_ray"):
        images = list_images(config_of(folder, tmp_path))
    assert len(images.train) == 5 and "1 image of data.uri" in caplog.text and "not trained on" in caplog.text


def test_coco_has_a_file_for_each_part(tmp_path: Path) -> None:
    boxes = coco(tmp_path / "coco")
    Image.new("RGB", (40, 30)).save(tmp_path / "coco" / "images" / "c.jpg")
    content = json.loads(boxes.read_text())
    content["images"] = [{"id": 7, "file_name": "c.jpg"}]
    (test := boxes.with_name("test.json")).write_text(json.dumps(content))
    folder = tmp_path / "coco" / "images"
    images = list_images(config_of(folder, tmp_path, annotations=str(boxes), test_annotations=str(test)))
    assert images.test is not None and [len(images.train), len(images.test)] == [2, 1]
    with pytest.raises(ValueError, match="the boxes to test on are those that are trained on"):
        list_images(config_of(folder, tmp_path, annotations=str(boxes), test_annotations=str(boxes)))
    images = list_images(config_of(folder, tmp_path, annotations=str(boxes)))
    assert images.test is None


def test_more_boxes_than_there_is_room_for_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "moco_ray"):
        list_images(config_of(write_shapes(tmp_path / "voc", 6, 2), tmp_path, max_boxes=1))
    assert "have more than 1 boxes" in caplog.text
