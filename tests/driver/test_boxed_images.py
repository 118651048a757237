"""Which images a detector is trained on and which it is tested on."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from moco_ray.config import Config
from moco_ray.data.boxes.table import BAD_BOXES
from moco_ray.data.manifest import Images
from moco_ray.driver.images.boxed import list_boxed_images
from moco_ray.driver.images.current import current_images
from moco_ray.driver.images.kept import adopt, images_of_run
from moco_ray.driver.images.listing import list_images
from moco_ray.run_folder.begin import begin_run
from moco_ray.run_folder.checkpoint import CheckpointStore
from moco_ray.storage.storage import Storage, StorageOptions, resolve_storage_options
from tests.boxed import shapes_config, write_shapes
from tests.data.test_boxes import box, coco


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


def _set_objects(folder: Path, row: int, objects: str) -> None:
    (folder / "Annotations" / f"{row}.xml").write_text(f"<annotation>{objects}</annotation>")


def _relisted(config: Config) -> Config:
    return replace(config, data=replace(config.data, relist=True))


def test_relisting_sees_other_boxes_and_refuses_other_classes(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path / "voc", 6, 2)
    config = config_of(folder, tmp_path)
    stored = list_images(config)
    assert current_images(stored, config, _relisted(config)) == (stored, None)
    _set_objects(folder, 0, box("disc", 1, 1, 20, 20) + box("square", 30, 30, 20, 20))
    images, difference = current_images(stored, config, _relisted(config))
    assert difference is not None and difference.words() == "1 labelled otherwise (JPEGImages/0.png)"
    assert images.train.digest != stored.train.digest and b"0.png" in images.notes[BAD_BOXES]
    _set_objects(folder, 1, box("cat", 1, 1, 20, 20))
    with pytest.raises(ValueError, match=r"tells other classes apart \(new: cat; gone: none\)"):
        current_images(stored, config, _relisted(config))


def test_a_relisted_run_lists_its_bad_boxes_anew(tmp_path: Path) -> None:
    folder, run = write_shapes(tmp_path / "voc", 6, 2), Storage.open(str(tmp_path / "run"), StorageOptions({}))
    good = (folder / "Annotations" / "0.xml").read_text().removeprefix("<annotation>").removesuffix("</annotation>")
    _set_objects(folder, 0, good + box("disc", 30, 1, 20, 20))
    config = config_of(folder, tmp_path)
    begin_run(run, config, list_images(config))
    assert "0.png" in (tmp_path / "run" / BAD_BOXES).read_text()
    _set_objects(folder, 0, good)
    config = _relisted(config)
    adopt(run, images_of_run(run, config, config), config, config)
    assert not (tmp_path / "run" / BAD_BOXES).exists()


def test_images_to_test_on_need_no_box_of_each_class(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path / "voc", 6, 2)
    for row in (6, 7):
        _set_objects(folder, row, box("square", 1, 1, 20, 20))
    images = list_images(config_of(folder, tmp_path))
    assert images.test is not None and images.test.classes == images.train.classes == ("disc", "square")


def test_the_boxes_may_lie_in_another_storage_than_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, asked = coco(tmp_path / "coco"), []

    def resolve(uri: str, text: str | None) -> StorageOptions:
        asked.append(uri)
        return resolve_storage_options(uri, text)

    monkeypatch.setattr("moco_ray.driver.images.boxed.resolve_storage_options", resolve)
    folder = tmp_path / "coco" / "images"
    test = shutil.copy(boxes, tmp_path / "test.json")
    list_boxed_images(config_of(folder, tmp_path, annotations=str(boxes), test_annotations=str(test)), holds_out=False)
    assert {str(boxes), str(test), str(folder)} == set(asked)


def test_a_run_that_holds_images_out_takes_no_other_boxes_to_test_on(tmp_path: Path) -> None:
    boxes = coco(tmp_path / "coco")
    config = config_of(tmp_path / "coco" / "images", tmp_path, annotations=str(boxes))
    later = replace(config, detection=replace(config.detection, test_annotations="test.json"))
    with pytest.raises(ValueError, match=r"detection.test-annotations was '', now 'test.json'"):
        current_images(list_images(config), config, later)


def test_held_out_images_that_are_gone_are_replaced_by_new_ones(tmp_path: Path) -> None:
    folder, run = write_shapes(tmp_path / "voc", 8, 4), Storage.open(str(tmp_path / "run"), StorageOptions({}))
    lists = folder / "ImageSets" / "Main"
    test = (lists / "test.txt").read_text()
    (lists / "test.txt").unlink()
    config = config_of(folder, tmp_path)
    before = list_images(config).train
    held_out = {Path(before.uri(int(row))).stem for row in before.other_rows(before.train_rows())}
    rows = [row for row in (lists / "trainval.txt").read_text().split() if row not in held_out]
    begin_run(run, config, Images(train=before, test=None))
    CheckpointStore(storage=run).write(1, {}, {}, {})
    (lists / "trainval.txt").write_text("\n".join([*rows, *test.split()]))
    now = images_of_run(run, config, _relisted(config)).images.train
    chosen = {Path(now.uri(int(row))).stem for row in now.other_rows(now.train_rows())}
    assert len(held_out) == len(chosen) == 2 and chosen <= set(test.split())


def test_where_the_boxes_lie_now_is_written_down(tmp_path: Path) -> None:
    boxes, run = coco(tmp_path / "coco"), Storage.open(str(tmp_path / "run"), StorageOptions({}))
    old = config_of(tmp_path / "coco" / "images", tmp_path, annotations=str(boxes))
    begin_run(run, old, list_images(old))
    shutil.move(tmp_path / "coco", tmp_path / "moved")
    moved = str(tmp_path / "moved" / "boxes.json")
    config = config_of(tmp_path / "moved" / "images", tmp_path, annotations=moved)
    adopt(run, images_of_run(run, old, config), old, config)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["detection"]["annotations"] == moved
