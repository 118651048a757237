"""A run that collapses says so once, and stops where it is asked to: on any number of ranks, with everything saved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moco_ray.config import Config, experiment_differences
from moco_ray.driver.run import pretrain
from moco_ray.evaluate import collapse
from tests.gloo import pretrain_on_ranks
from tests.runs import metrics, tiny_config


def _config(images: Path, tmp_path: Path, lr: float = 300.0) -> Config:
    """All embeddings of its encoder are alike from the first evaluations on."""
    config = tiny_config(images, tmp_path, dtype="float32", log_every_steps=1, stop_on_collapse=True)
    return replace(
        config,
        optim=replace(config.optim, lr=lr, epochs=4),
        eval=replace(config.eval, every_steps=4, max_time_fraction=1.0, max_queries=40),
    )


def _without(config: Config) -> Config:
    return replace(config, run=replace(config.run, stop_on_collapse=False))


def _newest(folder: Path) -> int:
    return max(int(path.name.split("_")[1]) for path in folder.glob("checkpoint_*/COMMITTED") for path in [path.parent])


def test_it_ends_as_an_error_of_the_user_and_goes_on_without_the_flag(images: Path, tmp_path: Path) -> None:
    config, said = _config(images, tmp_path), []
    with pytest.raises(ValueError, match=r"Stopped after \d+ steps because of run.stop-on-collapse") as caught:
        pretrain(config, say=said.append)
    end = json.loads((tmp_path / "run" / "end.json").read_text())
    assert end["state"] == "failed" and end["reason"] == str(caught.value)[:1000]
    stopped = _newest(tmp_path / "run")
    assert 8 <= stopped < 32 and f"Stopped after {stopped} steps" in str(caught.value)
    alarms = [line for line in said if "collaps" in line and line.startswith("warning: ")]
    assert 1 <= len(alarms) <= 3 and len(set(alarms)) == len(alarms)

    with pytest.raises(ValueError, match=rf"Stopped after {stopped} steps because of run.stop-on-collapse"):
        pretrain(config, say=said.append)  # nothing has changed
    assert _newest(tmp_path / "run") == stopped

    later: list[str] = []
    assert pretrain(_without(config), say=later.append).step == 32
    assert len(metrics(tmp_path / "run")) == 32
    assert not [line for line in later if "has collapsed: " in line or "is collapsing" in line]  # said before
    assert not (tmp_path / "run" / "end.json").exists()
    assert not experiment_differences(config, _without(config))


def test_a_run_that_learns_is_not_stopped(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapse, "_FEWEST_STEPS", 8)  # of a loss at chance, too
    assert pretrain(_config(images, tmp_path, lr=0.1), say=lambda line: None).step == 32


def test_without_the_flag_it_is_said_once_and_the_run_ends_well(images: Path, tmp_path: Path) -> None:
    said: list[str] = []
    assert pretrain(_without(_config(images, tmp_path)), say=said.append).step == 32
    assert sum("the encoder has collapsed: " in line or "is collapsing: " in line for line in said) == 1
    state = torch.load(tmp_path / "run" / "checkpoint_000000032" / "state.pt", weights_only=True)
    assert {"collapse", "fallen"} & set(state["recorder"]["watch"]["said"])


@pytest.mark.slow
def test_all_ranks_stop_together_and_another_number_of_them_goes_on(images: Path, tmp_path: Path) -> None:
    config = _config(images, tmp_path)
    with pytest.raises(ValueError, match=r"Stopped after \d+ steps because of run.stop-on-collapse"):
        pretrain_on_ranks(config, 3)
    stopped = _newest(tmp_path / "run")
    with pytest.raises(ValueError, match=rf"Stopped after {stopped} steps because of run.stop-on-collapse"):
        pretrain_on_ranks(config, 2)
    assert pretrain_on_ranks(_without(config), 2) and len(metrics(tmp_path / "run")) == 32
