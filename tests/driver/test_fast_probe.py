"""What a fast probe keeps, and what makes it look again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from moco_ray.cluster.workers import Workers
from moco_ray.config import Config
from moco_ray.config.data import DataConfig
from moco_ray.config.eval import EvalConfig
from moco_ray.config.run import RunConfig
from moco_ray.driver import fast_probe as module
from moco_ray.driver.fast_probe import fast_probe
from moco_ray.evaluate.linear import fit_linear
from tests.driver.test_evaluation import encoder as encoder
from tests.report.folders import write_run
from tests.runs import tiny_config, write_images

KEPT, THERE = "features are kept in", "features of an earlier time"


@pytest.fixture(autouse=True)
def _one_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fit_linear", partial(fit_linear, strengths=(1e-4,)))


def job(encoder: Path, images: Path, storage: Path, *, seed: int = 0, **others: Any) -> Config:
    config = tiny_config(images, storage)
    return Config(
        task="linear-probe",
        data=DataConfig(uri=str(images), **others),
        views=config.views,
        model=replace(config.model, init=str(encoder)),
        eval=EvalConfig(max_queries=10, holdout_fraction=0.2),
        run=RunConfig(num_workers=0, dtype="float32", device="cpu", seed=seed, storage_path=str(storage)),
    )


def probe(config: Config) -> tuple[dict[str, Any], str]:
    said: list[str] = []
    return fast_probe(config, say=said.append), "\n".join(said)


@pytest.fixture
def some(tmp_path: Path) -> Path:
    return write_images(tmp_path / "some", 60)


def test_features_are_made_anew_for_other_images_and_devices_and_where_they_are_damaged(
    encoder: Path, some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job(encoder, some, tmp_path / "runs")
    first, said = probe(config)
    assert KEPT in said and first["num_bad"] == 0
    again, said = probe(config)
    assert THERE in said and again["tried"] == first["tried"] and again["loss"] == first["loss"]
    (file,) = (tmp_path / "runs/features").glob("*.npz")
    content = file.read_bytes()
    for damaged in (content[:1000], content[: len(content) // 2] + b"\1" * 9 + content[len(content) // 2 + 9 :]):
        file.write_bytes(damaged)
        anew, said = probe(config)
        assert "cannot be read" in said and KEPT in said and anew["loss"] == first["loss"]
    others = [job(encoder, some, tmp_path / "runs", seed=1), job(encoder, some, tmp_path / "runs", max_pixels=10**6)]
    for other in others:
        assert KEPT in probe(other)[1]
    workers = Workers(fewest=0, most=0, uses_gpu=True, resources={})
    key = {"uses_gpu": ""}
    monkeypatch.setattr(module, "choose_pool_workers", lambda run: workers)
    monkeypatch.setattr(module, "_encode", lambda *arguments: key.update(uses_gpu="asked") or 1 / 0)
    with pytest.raises(ZeroDivisionError):  # what a CPU has made is not for a GPU
        probe(config)
    assert key == {"uses_gpu": "asked"}


def test_the_run_of_the_encoder_shows_what_was_measured(encoder: Path, some: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "pretrained")
    shutil.copy(encoder, folder / "encoder.safetensors")
    found, said = probe(job(folder / "encoder.safetensors", some, tmp_path / "runs"))
    (kept,) = [json.loads(path.read_text()) for path in (folder / "evaluations").iterdir()]
    assert kept["kind"] == "linear probe, fast" and kept["measures"]["top1"] == found["top1"] and kept["step"] == 7
    assert (
        "linear probe, fast" in (folder / "report" / "index.html").read_text() and "kept with the encoder's run" in said
    )


def test_images_that_are_left_out_are_counted_each_time(encoder: Path, some: Path, tmp_path: Path) -> None:
    for path in sorted(some.glob("*/*.png"))[::30]:
        path.write_bytes(b"no image")
    for _ in range(2):
        found, said = probe(job(encoder, some, tmp_path / "runs"))
        assert found["num_bad"] >= 1 and "left out" in said and KEPT not in said and THERE not in said


def test_a_class_without_an_image_to_learn_from_is_named_and_the_results_are_json(
    encoder: Path, some: Path, tmp_path: Path
) -> None:
    folders = sorted(some.iterdir())
    for folder in folders:
        files = sorted(folder.glob("*.png"))
        for i, path in enumerate(files):
            target = tmp_path / "parts" / ("test" if i % 3 == 0 else "train") / folder.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    for path in (tmp_path / "parts/train" / folders[0].name).iterdir():
        path.write_bytes(b"no image")
    config = job(encoder, tmp_path / "parts", tmp_path / "runs")
    found, said = probe(replace(config, eval=EvalConfig(max_queries=1000, holdout_fraction=0)))
    assert f"no image to learn from of 1 of the {len(folders)} classes: {folders[0].name};" in said
    assert found["loss"] is None and found["per_class"][folders[0].name] == 0
    json.dumps(found, allow_nan=False)
