"""The encoder of a run that was stopped, and the files that a finished one would leave."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import moco_ray
from moco_ray.cli.export import main
from moco_ray.config.model import ModelConfig
from moco_ray.core.encoders import build_encoder
from moco_ray.driver.run import pretrain
from moco_ray.weights.initial_weights import load_initial_weights
from tests.runs import metrics, punctual_checkpoints, tiny_config

_REPORT = {"index.html", "views.png", "neighbours.png", "curves.png"}


def _quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def stopped(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped as by Ctrl-C when the checkpoint of step 4 was there."""
    config = tiny_config(images, tmp_path_factory.mktemp("stopped"), dtype="float32", checkpoint_every_steps=2)
    folder = Path(config.run.storage_path) / "run"
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "4" in line and "kNN" in line:
            deadline = time.monotonic() + 30
            while not (folder / "checkpoint_000000004" / "COMMITTED").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            raise KeyboardInterrupt

    with punctual_checkpoints(), pytest.raises(KeyboardInterrupt):
        pretrain(replace(config, eval=replace(config.eval, every_steps=4, max_time_fraction=1.0)), say=say)
    assert any(line.endswith(f"moco-ray export {folder}") for line in said), said
    assert not (folder / "encoder.safetensors").exists() and not (folder / "report" / "curves.png").exists()
    assert 'class="state stopped"' in (folder / "report" / "index.html").read_text()
    return folder


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(stopped, tmp_path / "copy"))


def _is_of(encoder: nn.Module, folder: Path, step: int) -> bool:
    """Whether these are the query encoder's weights and running statistics of a checkpoint."""
    method = torch.load(folder / f"checkpoint_{step:09d}" / "state.pt")["method"]
    return all(torch.equal(t, method[f"query_encoder.backbone.{name}"]) for name, t in encoder.state_dict().items())


def test_the_metrics_of_a_stopped_run_are_joined(stopped: Path) -> None:
    assert [line["step"] for line in metrics(stopped)] == [0, 1, 2, 3]


def test_a_stopped_run_has_an_encoder(stopped: Path) -> None:
    for path in (stopped, stopped / "checkpoint_000000004", stopped / "checkpoint_000000004" / "state.pt"):
        assert _is_of(moco_ray.load_encoder(path), stopped, 4)
        info = moco_ray.encoder_info(str(path))
        assert (info["step"], info["arch"], info["crop_px"]) == (4, "tiny_resnet", 32)
        assert len(info["mean"]) == 3 and "timm.create_model" in info["recipe"]
    assert _is_of(moco_ray.load_encoder(stopped / "checkpoint_000000002"), stopped, 2)


def test_a_checkpoint_that_is_not_whole_is_passed_over(run: Path) -> None:
    (run / "checkpoint_000000004" / "COMMITTED").unlink()
    assert moco_ray.encoder_info(run)["step"] == 2
    with pytest.raises(ValueError, match="checkpoint_000000004 was never finished"):
        moco_ray.load_encoder(run / "checkpoint_000000004")
    state = run / "checkpoint_000000002" / "state.pt"
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"checkpoint_000000002/state\.pt is damaged"):
        moco_ray.load_encoder(state)
    with pytest.raises(
        ValueError, match=r"not saved a checkpoint yet that is whole \(.*4 was never finished; .*2 is damaged"
    ):
        moco_ray.load_encoder(run)


@pytest.mark.parametrize("name", ["best", "x.pt", "weights.safetensors"])
def test_a_copied_checkpoint_may_have_any_name(name: str, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run / "checkpoint_000000002", tmp_path / name))
    for path in (copy, copy / "state.pt"):
        assert _is_of(moco_ray.load_encoder(path), run, 2)
    state = (copy / "state.pt").rename(tmp_path / "state of step 2")
    assert _is_of(moco_ray.load_encoder(state), run, 2)
    state.write_bytes(state.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="is cut or damaged"):
        moco_ray.load_encoder(state)
    with pytest.raises(ValueError, match=r"is damaged \(state.pt is missing\)"):
        moco_ray.load_encoder(copy)


def test_a_stopped_run_may_have_any_name(run: Path) -> None:
    for name in ("x.pt", "checkpoint_7"):
        run = run.rename(run.with_name(name))
        assert _is_of(moco_ray.load_encoder(run), run, 4)


def test_an_encoder_loads_from_a_stopped_run_in_a_bucket(run: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(run), "/bucket/stopped", recursive=True)
    assert _is_of(moco_ray.load_encoder("memory://bucket/stopped"), run, 4)
    assert moco_ray.encoder_info("memory://bucket/stopped/checkpoint_000000002")["step"] == 2


def test_export_leaves_what_a_finished_run_does(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "metrics.jsonl").unlink()
    assert main([str(run)]) == 0
    assert _is_of(moco_ray.load_encoder(run / "encoder.safetensors"), run, 4)
    assert len(metrics(run)) == 4
    assert {path.name for path in (run / "report").iterdir()} >= _REPORT
    assert "encoder of step 4" in capsys.readouterr().out


def test_export_of_a_checkpoint_goes_to_its_own_file(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "early.safetensors"
    assert main([str(run), "--checkpoint", "2", "--output", str(target)]) == 0
    assert _is_of(moco_ray.load_encoder(target), run, 2)
    assert not (run / "encoder.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "is no folder of a run"),
        (["RUN", "--checkpoint", "2"], "name it with --output"),
        (["RUN", "--checkpoint", "3", "--output", "x"], "checkpoint_000000003"),
    ],
)
def test_what_cannot_be_exported_is_said(
    arguments: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.replace("RUN", str(run)) for argument in arguments]) == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in error.replace(" ", "") or message in error


def test_pictures_that_are_gone_cost_only_the_pictures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "manifest.parquet").write_bytes(b"")
    assert main([str(run)]) == 0
    assert "warning: the pictures could not be drawn" in capsys.readouterr().out
    assert (run / "encoder.safetensors").is_file()


def test_a_run_that_went_on_after_its_end_gives_its_newest_weights(run: Path) -> None:
    early = moco_ray.export_run(run, checkpoint=2, output=run / "encoder.safetensors", say=_quiet)
    assert moco_ray.encoder_info(early)["step"] == 2 and moco_ray.encoder_info(run)["step"] == 4
    assert _is_of(moco_ray.load_encoder(run), run, 4)


@pytest.mark.parametrize("place", ["", "checkpoint_000000004", "checkpoint_000000004/state.pt"])
def test_a_run_gives_initial_weights(place: str, stopped: Path) -> None:
    encoder = build_encoder(ModelConfig(arch="tiny_resnet", dim=16), 32)
    said = load_initial_weights(encoder, str(stopped / place))
    assert _is_of(encoder.backbone, stopped, 4)
    assert "the projector starts fresh" not in said
    other = build_encoder(ModelConfig(arch="tiny_resnet", dim=8), 32)
    assert "the projector starts fresh" in load_initial_weights(other, str(stopped / place))


def test_a_finished_run_gives_initial_weights_to_another_run(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=1, dtype="float32")
    folder = pretrain(config, say=_quiet).folder
    said: list[str] = []
    again = replace(config, model=replace(config.model, init=folder), run=replace(config.run, name="again"))
    pretrain(again, say=said.append)
    assert any(line.startswith("initial weights: ") and folder in line for line in said)


def test_images_without_labels_get_neighbours_too(tmp_path: Path, pictures: None) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(30):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")
    folder = Path(pretrain(tiny_config(tmp_path / "images", tmp_path, max_steps=1), say=_quiet).folder)
    assert {path.name for path in (folder / "report").iterdir()} >= _REPORT
    assert "eval/knn_top1" not in json.loads((folder / "eval.jsonl").read_text().splitlines()[0])
