"""The seam of tasks/ holds a tenant of a few lines: resumable and recorded. test_supervised and test_detection are on Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moco_ray.driver.run import train
from tests.runs import digests, losses, metrics, tiny_config
from tests.tasks.classification import Classification


def _quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve steps in this process."""
    config = tiny_config(images, tmp_path_factory.mktemp("whole"), max_steps=12)
    return Path(train(Classification(), config, say=_quiet).folder)


def test_it_learns_and_leaves_the_records_of_a_run(whole: Path) -> None:
    first, *_, last = metrics(whole)
    assert {"train/loss", "rows_digest", "world_size"} <= first.keys() and "train/accuracy" in last
    assert last["train/loss"] < first["train/loss"] and last["train/accuracy"] > 10
    lines = [json.loads(line) for line in (whole / "eval.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 12] and lines[0]["eval/weights"] != lines[1]["eval/weights"]
    assert not (whole / "encoder.safetensors").exists()


def test_a_run_that_goes_on_has_the_same_curve(whole: Path, images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=5)
    train(Classification(), config, say=_quiet)
    folder = train(Classification(), replace(config, run=replace(config.run, max_steps=12)), say=_quiet).folder
    assert losses(folder).tolist() == losses(whole).tolist() and digests(folder) == digests(whole)
