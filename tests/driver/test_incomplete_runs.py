"""Runs of which a part was lost, damaged or moved: the same command goes on, or says what to put back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moco_ray.cli.presets import load_preset
from moco_ray.config import Config
from moco_ray.config.data import DataConfig
from moco_ray.driver.run import pretrain
from tests.runs import losses, metrics, tiny_config

STEPS = 4


def _quiet(line: str) -> None:
    pass


def _config(
    images: Path, storage: Path, *, init: str | None = None, max_steps: int = STEPS, name: str = "run"
) -> Config:
    config = tiny_config(images, storage, name=name, max_steps=max_steps, checkpoint_every_steps=2)
    return replace(config, model=replace(config.model, init=init))


@pytest.fixture(scope="module")
def stopped(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps."""
    return Path(pretrain(_config(images, tmp_path_factory.mktemp("runs")), say=_quiet).folder)


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it, in a folder of runs of its own."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def test_a_run_goes_on_without_the_weights_that_it_started_from(
    images: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(_config(images, tmp_path, init=str(run), name="whole"), say=_quiet)
    pretrain(_config(images, tmp_path, init=str(run), name="s", max_steps=1), say=_quiet)
    monkeypatch.chdir(tmp_path)
    for step, init in ((2, f"file://{run}/"), (3, "./run/encoder.safetensors")):
        assert pretrain(_config(images, tmp_path, init=init, name="s", max_steps=step), say=_quiet).step == step
    with pytest.raises(ValueError, match=r"another experiment: model\.init was .*now '.*/whole'"):
        pretrain(_config(images, tmp_path, init=str(tmp_path / "whole"), name="s"), say=_quiet)
    run.rename(tmp_path / "moved")
    said: list[str] = []
    pretrain(_config(images, tmp_path, init=str(run), name="s"), say=said.append)
    assert any("model.init cannot be read any more" in line and str(run) in line for line in said)
    np.testing.assert_array_equal(losses(tmp_path / "s"), losses(tmp_path / "whole"))
    with pytest.raises(ValueError, match="there is no such file"):  # to begin with, they are needed
        pretrain(_config(images, tmp_path, init=str(run), name="t"), say=_quiet)


def test_checkpoints_without_a_configuration_are_not_written_over(images: Path, run: Path, tmp_path: Path) -> None:
    (run / "config.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"holds checkpoints, up to step 4, and no config\.json: put back"):
        pretrain(_config(images, tmp_path), say=_quiet)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not (run / "config.json").exists()


def test_lost_metrics_are_said_and_the_run_ends(images: Path, run: Path, tmp_path: Path) -> None:
    min((run / "metrics").iterdir()).unlink()
    said: list[str] = []
    assert pretrain(_config(images, tmp_path, max_steps=6), say=said.append).step == 6
    assert sum("the metrics of steps 0 to 1 are missing" in line for line in said) == 1
    assert [line["step"] for line in metrics(run)] == [2, 3, 4, 5]


@pytest.mark.parametrize("name", ["bad_images.jsonl", "lineage.jsonl", "interruptions.jsonl"])
def test_a_damaged_record_is_named(name: str, images: Path, run: Path, tmp_path: Path) -> None:
    with (run / name).open("a") as file:
        file.write("{broken\n")
    with pytest.raises(ValueError, match=rf"run/{name}: line \d+ is damaged"):
        pretrain(_config(images, tmp_path, max_steps=6), say=_quiet)


def test_a_damaged_record_of_evaluations_is_written_anew(images: Path, run: Path, tmp_path: Path) -> None:
    before = (run / "eval.jsonl").read_bytes()
    (run / "eval.jsonl").write_bytes(before + b"{broken\n")
    pretrain(_config(images, tmp_path), say=_quiet)
    assert (run / "eval.jsonl").read_bytes() == before


def test_another_preset_is_named_before_its_values_are_judged(images: Path, run: Path, tmp_path: Path) -> None:
    other = replace(
        load_preset("moco-v2"), data=DataConfig(uri=str(images))
    )  # its batches are too large for the images
    config = replace(other, run=_config(images, tmp_path).run)
    with pytest.raises(
        ValueError, match=r"another experiment: the preset was smoke, now moco-v2; .*global-batch-size was 24"
    ):
        pretrain(config, say=_quiet)
