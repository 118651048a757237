"""Detection as a task of a run: it learns from boxes that are true, goes on where it stopped, on any number of workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moco_ray.cli.export import export_run
from moco_ray.config import Config, to_json
from moco_ray.config.model import ModelConfig
from moco_ray.core.encoders import build_backbone
from moco_ray.driver.run import train
from moco_ray.storage.errors import ReadError
from moco_ray.tasks.detection import DETECTION
from moco_ray.weights.detector_file import load_detector
from moco_ray.weights.encoder_file import metadata_of, tensors_of
from tests.boxed import SIDE, shapes_config, write_shapes
from tests.runs import digests, losses, metrics

ROOT = Path(__file__).parent.parent.parent


def _quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "VOC2007", 24, 6)


@pytest.fixture(scope="module")
def whole(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps in this process."""
    config = shapes_config(shapes, tmp_path_factory.mktemp("whole"), max_steps=6)
    return Path(train(DETECTION, config, say=_quiet).folder)


def test_it_leaves_the_records_of_a_run_and_a_detector(whole: Path, shapes: Path) -> None:
    assert all(np.isfinite(losses(whole))) and {"train/objectness", "train/boxes"} <= metrics(whole)[-1].keys()
    lines = [json.loads(line) for line in (whole / "eval.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 6] and {"eval/AP", "eval/AP50", "eval/AP75"} <= lines[1].keys()
    results = json.loads((whole / "results.json").read_text())
    assert results["task"] == "detection" and results["classes"] == ["disc", "square"]
    assert (results["num_train"], results["num_test"], results["AP"]) == (24, 6, lines[1]["eval/AP"])
    for entry in json.loads((whole / "detections.json").read_text()):
        assert Path(entry["uri"]).parent == shapes / "JPEGImages" and entry["category"] in ("disc", "square")
    for picture in ("curves.png", "detections.png"):
        assert (whole / "report" / picture).read_bytes()[:4] == b"\x89PNG"
    page = (whole / "report" / "index.html").read_text()
    assert '<img class="photo" src="data:image/webp;base64,' in page and f'<data value="{results["AP"]}">' in page
    assert "2 classes of boxes" in page and "no labels" not in page
    detector, classes, config = load_detector(whole)
    assert classes == ("disc", "square") and to_json(config) == (whole / "config.json").read_text()
    with torch.no_grad():
        found = detector(torch.zeros(1, 3, SIDE, SIDE), [(SIDE, SIDE)])
    assert set(found[0]) == {"boxes", "labels", "scores"}
    with pytest.raises(ValueError, match="is no detector of moco_ray"):
        load_detector(_encoder_like(whole))


def test_the_detector_of_a_run_that_was_stopped(whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "detector.safetensors").unlink()
    export_run(run, say=_quiet)
    before, after = ((folder / "detector.safetensors").read_bytes() for folder in (whole, run))
    assert metadata_of(after) == metadata_of(before)  # safetensors writes these in any order
    torch.testing.assert_close(tensors_of(after, "after"), tensors_of(before, "before"), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"is for an encoder, and .* trains a detector"):
        export_run(run, output=tmp_path / "x.safetensors", say=_quiet)


def _encoder_like(folder: Path) -> Path:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, folder / "other.safetensors")
    return folder / "other.safetensors"


def test_a_run_that_goes_on_has_the_same_curve(whole: Path, shapes: Path, tmp_path: Path) -> None:
    config = shapes_config(shapes, tmp_path, max_steps=2)
    train(DETECTION, config, say=_quiet)
    folder = train(DETECTION, replace(config, run=replace(config.run, max_steps=6)), say=_quiet).folder
    assert losses(folder).tolist() == losses(whole).tolist() and digests(folder) == digests(whole)


def test_bad_boxes_are_listed_in_the_folder_of_the_run(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path / "VOC2007", 8, 2)
    (folder / "Annotations" / "3.xml").write_text(
        "<annotation><object><name>disc</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>2</xmax><ymax>20</ymax></bndbox>"
        "</object></annotation>"
    )
    said: list[str] = []
    run = train(DETECTION, shapes_config(folder, tmp_path / "runs", max_steps=1), say=said.append)
    lines = [json.loads(line) for line in (Path(run.folder) / "bad_boxes.jsonl").read_text().splitlines()]
    assert [(Path(line["place"]).name, line["reason"]) for line in lines] == [
        ("3.png", "box 8 8 2 20 of 'disc' is inverted")
    ]
    assert any("left out 1 box" in line and "bad_boxes.jsonl" in line for line in said)


def _coco_config(shapes: Path, tmp_path: Path) -> Config:
    names = [f"{i}.png" for i in range(24)]
    content = {
        "categories": [{"id": 17, "name": "square"}, {"id": 90, "name": "disc"}],
        "images": [{"id": 100 + i, "file_name": name, "width": SIDE, "height": SIDE} for i, name in enumerate(names)],
        "annotations": [
            {"image_id": 100 + i, "category_id": 17 if i % 2 else 90, "bbox": [5, 5, 20, 20]} for i in range(len(names))
        ],
    }
    for name, part in (("train", slice(16)), ("test", slice(16, 24))):
        (tmp_path / f"{name}.json").write_text(json.dumps({**content, "images": content["images"][part]}))
    config = shapes_config(shapes / "JPEGImages", tmp_path, max_steps=1)
    files = {"annotations": str(tmp_path / "train.json"), "test_annotations": str(tmp_path / "test.json")}
    return replace(config, detection=replace(config.detection, score_threshold=0.0, **files))


def test_what_is_found_has_the_numbers_of_coco(shapes: Path, tmp_path: Path) -> None:
    run = Path(train(DETECTION, _coco_config(shapes, tmp_path), say=_quiet).folder)
    found = json.loads((run / "detections.json").read_text())
    numbers = {"disc": 90, "square": 17}
    assert found and all(
        entry["image_id"] == 100 + int(Path(entry["uri"]).stem) >= 116
        and entry["category_id"] == numbers[entry["category"]]
        for entry in found
    )
    assert (run / "report" / "detections.png").exists()


def test_a_run_ends_well_though_the_numbers_of_coco_cannot_be_read(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*storages: object) -> None:
        raise ReadError("gone")

    monkeypatch.setattr("moco_ray.tasks.detection.coco_numbers", fail)
    said: list[str] = []
    run = Path(train(DETECTION, _coco_config(shapes, tmp_path), say=said.append).folder)
    assert "AP" in json.loads((run / "results.json").read_text()) and (run / "report" / "detections.png").exists()
    assert {entry["category_id"] for entry in json.loads((run / "detections.json").read_text())} <= {1, 2}
    assert any("has rows for ids" in line and "gone" in line for line in said)


def test_a_run_begins_with_the_weights_that_it_is_given(shapes: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    weights = build_backbone(ModelConfig(arch="tiny_resnet")).state_dict()
    torch.save({f"module.encoder.{name}": value for name, value in weights.items()}, tmp_path / "other.pt")
    config = shapes_config(shapes, tmp_path, max_steps=1, lr=1e-12)
    config = replace(config, model=replace(config.model, init=str(tmp_path / "other.pt")))
    detector, _, _ = load_detector(train(DETECTION, config, say=_quiet).folder)
    own = detector.state_dict()
    torch.testing.assert_close(own["backbone.conv1.0.weight"], weights["conv1.0.weight"])
    torch.testing.assert_close(own["roi_heads.box_head.layer4.0.conv1.weight"], weights["layer4.0.conv1.weight"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: replace(c, model=replace(c.model, arch="vit_small")), "has no stages layer1 to layer4"),
        (lambda c: replace(c, run=replace(c.run, micro_batch_groups=1)), "run.micro-batch-groups and run.compile"),
        (lambda c: replace(c, detection=replace(c.detection, test_split="trainval")), "are those that are trained on"),
        (
            lambda c: replace(c, data=replace(c.data, classes=("disc", "dog"))),
            "data.classes dog: .* classes are disc, square",
        ),
        (
            lambda c: replace(c, data=replace(c.data, uri=str(Path(c.data.uri).parent))),
            "has no JPEGImages/ and Annotations/",
        ),
        (
            lambda c: replace(c, detection=replace(c.detection, max_px=20)),
            "detection.max-px 20 is less than a shorter side",
        ),
        (lambda c: replace(c, detection=replace(c.detection, neck="fpn")), "has 2 sides; detection.neck fpn has five"),
    ],
)
def test_what_cannot_be_trained_is_refused(shapes: Path, tmp_path: Path, change: object, reason: str) -> None:
    assert callable(change)
    with pytest.raises(ValueError, match=reason):
        train(DETECTION, change(shapes_config(shapes, tmp_path)), say=_quiet)


def test_without_pycocotools_it_says_what_to_install(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(ValueError, match=r"pip install 'moco_ray\[detect\]'"):
        train(DETECTION, shapes_config(shapes, tmp_path), say=_quiet)


@pytest.mark.slow
def test_it_learns_from_true_boxes_and_nothing_from_those_of_other_images(tmp_path: Path) -> None:
    ap50 = {}
    for is_shuffled in (False, True):
        folder = write_shapes(tmp_path / f"VOC{is_shuffled}", 160, 40, is_shuffled=is_shuffled)
        config = shapes_config(folder, tmp_path / f"runs{is_shuffled}", epochs=6, dtype="float32")
        run = train(DETECTION, config, say=_quiet)
        ap50[is_shuffled] = json.loads((Path(run.folder) / "results.json").read_text())["AP50"]
    assert ap50[False] > 40 and ap50[True] < 20, ap50  # 68 and 7 when it was written


@pytest.mark.slow
def test_a_run_on_ray_has_the_same_curve_and_goes_on_with_other_workers(
    whole: Path, shapes: Path, tmp_path: Path, shared_ray: None
) -> None:
    config = shapes_config(shapes, tmp_path, max_steps=2, num_workers=2)
    train(DETECTION, config, say=_quiet)
    folder = train(DETECTION, replace(config, run=replace(config.run, max_steps=6, num_workers=3)), say=_quiet).folder
    np.testing.assert_allclose(losses(folder), losses(whole), rtol=1e-9)
    assert digests(folder) == digests(whole)
    assert [line["world_size"] for line in metrics(folder)] == [2] * 2 + [3] * 4
    before, after = ((json.loads((Path(f) / "results.json").read_text()))["AP"] for f in (whole, folder))
    assert after == pytest.approx(before, abs=1e-6)


@pytest.mark.slow
def test_killing_a_run_changes_nothing(whole: Path, shapes: Path, tmp_path: Path) -> None:
    config = shapes_config(shapes, tmp_path, max_steps=6, checkpoint_every_steps=1)
    _kill_after_a_checkpoint(config, tmp_path)
    assert not (tmp_path / "run" / "results.json").exists()
    folder = train(DETECTION, config, say=_quiet).folder
    assert losses(folder).tolist() == losses(whole).tolist() and digests(folder) == digests(whole)


def _kill_after_a_checkpoint(config: Config, folder: Path) -> None:
    (folder / "config.json").write_text(to_json(config))
    command = [sys.executable, str(ROOT / "jobs" / "detect.py"), "--preset", str(folder / "config.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    values = {"name": "run", "storage-path": folder, "num-workers": 0, "max-steps": 6, "checkpoint-every-steps": 1}
    flags = [
        text for name, value in values.items() for text in (f"--run.{name}", str(value))
    ]  # a file keeps none of them
    process = subprocess.Popen([*command, *flags], env=environment, stdout=subprocess.DEVNULL)
    give_up = time.monotonic() + 200
    while not list((folder / "run").glob("checkpoint_*/COMMITTED")) and time.monotonic() < give_up:
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
