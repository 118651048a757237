"""What a person hears while a run begins, learns nothing, or has nothing left to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from moco_ray.cluster.workers import trains_here
from moco_ray.config import Config
from moco_ray.config.run import RunConfig
from moco_ray.core.encoders import build_encoder
from moco_ray.driver.run import pretrain
from moco_ray.worker.evaluations import Evaluations
from tests.runs import losses, metrics, tiny_config


def _run(config: Config) -> tuple[Path, list[str]]:
    said: list[str] = []
    return Path(pretrain(config, say=said.append).folder), said


def _lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]


def test_the_first_loss_comes_before_the_untrained_encoder_is_measured(images: Path, tmp_path: Path) -> None:
    folder, said = _run(tiny_config(images, tmp_path, max_steps=3))
    first = next(i for i, line in enumerate(said) if line.startswith("step 1/3 "))
    measuring = next(i for i, line in enumerate(said) if line.startswith("measuring the untrained encoder: 0 of "))
    found = next(i for i, line in enumerate(said) if line.startswith("untrained encoder: kNN "))
    assert first < measuring < found
    config = tiny_config(images, tmp_path, max_steps=3)
    torch.manual_seed(config.run.seed)  # as the run begins
    untrained = build_encoder(config.model, config.views.crop_px)
    torch.save(untrained.state_dict(), tmp_path / "untrained.pt")
    init = replace(config.model, init=str(tmp_path / "untrained.pt"))
    other, _ = _run(replace(config, model=init, run=replace(config.run, name="other", log_every_steps=1)))
    assert _lines(folder)[0]["step"] == 0
    assert _lines(other)[0] == _lines(folder)[0]


def test_a_run_that_ends_at_its_first_checkpoint_has_measured_the_untrained_encoder(
    images: Path, tmp_path: Path
) -> None:
    folder, _ = _run(tiny_config(images, tmp_path, max_steps=1, checkpoint_every_steps=1))
    state = torch.load(folder / "checkpoint_000000001" / "state.pt", weights_only=True)
    assert [line["step"] for line in state["recorder"]["evaluations"]] == [0]


def test_a_waiting_evaluation_is_not_run_twice(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    inline = Evaluations._run_inline

    def count(self: Evaluations, step: int, state: dict[str, object]) -> None:
        runs.append(step)
        inline(self, step, state)

    monkeypatch.setattr(Evaluations, "_run_inline", count)
    config = tiny_config(images, tmp_path, max_steps=2)
    _run(replace(config, eval=replace(config.eval, every_steps=1, max_time_fraction=1.0)))
    assert runs == [0, 1, 2]


def _flat(i: int) -> np.ndarray:
    return np.full((28, 28, 3), 120, np.uint8)


def _same(i: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)


def _dark(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 12, (28, 28, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("draw", "change", "warning"),
    [
        (_flat, {}, "hardly any contrast"),
        (_dark, {}, "hardly any contrast"),
        (_same, {}, "differ from all others"),
        (None, {"lr": 1e-13}, "the weights have not changed in 3 steps"),
        (None, {"temperature": 1e-6}, "temperature 1e-06"),
        (None, {"lr": 300.0}, "has collapsed"),
        (None, {}, None),
    ],
)
def test_a_run_that_learns_nothing_says_why_and_goes_on(
    draw: Callable[[int], np.ndarray] | None,
    change: dict[str, float],
    warning: str | None,
    images: Path,
    tmp_path: Path,
) -> None:
    if draw is not None:
        images = tmp_path / "images"
        images.mkdir()
        for i in range(48):
            cv2.imwrite(str(images / f"{i}.png"), draw(i))
    config = tiny_config(images, tmp_path, max_steps=3, dtype="float32")
    if "lr" in change:
        config = replace(config, optim=replace(config.optim, lr=change["lr"]))
    if "temperature" in change:
        config = replace(config, method=replace(config.method, temperature=change["temperature"]))
    folder, said = _run(config)
    found = [line for line in said if line.startswith("warning: ") and "queue" not in line]
    assert len(metrics(folder)) == 3
    assert [warning in line for line in found] == [True] if warning else not found


def test_a_loss_that_is_nan_from_the_start_does_not_blame_the_learning_rate(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=2, dtype="float32")
    config = replace(
        config, method=replace(config.method, temperature=1e-42)
    )  # similarities divided by it are infinite
    with pytest.raises(
        ValueError, match=r"the loss of step 0 is nan, before anything was learned: .*temperature 1e-42"
    ):
        _run(config)


def test_a_finished_run_says_so_and_how_to_go_on(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=2)
    folder, _ = _run(config)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "lease.json"}
    result = pretrain(config, say=lambda line: None)
    _, said = _run(config)
    assert any("this run is finished: all of its 2 steps" in line and "--run.max-steps 2" in line for line in said)
    assert not any("training from" in line or "measuring" in line for line in said)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != "lease.json"} == before
    assert result.step == 2 and result.metrics["train/loss"] == losses(folder)[-1]
    assert "eval/knn_top1" in result.metrics
    lower = pretrain(replace(config, run=replace(config.run, max_steps=1)), say=said.append)
    assert lower.step == 2 and sum("this run is finished: all of its 2 steps" in line for line in said) == 2
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != "lease.json"} == before
    whole = replace(
        config, optim=replace(config.optim, epochs=1), run=replace(config.run, max_steps=None, name="a whole")
    )
    _run(whole)
    _, said = _run(whole)
    assert any("more than --optim.epochs 1" in line and "a whole/encoder.safetensors'" in line for line in said)


@pytest.mark.parametrize(
    ("run", "address", "here"),
    [
        ({}, None, True),
        ({"num_workers": 0}, "10.0.0.1:6379", True),
        ({"num_workers": 1}, None, False),
        ({"min_workers": 1}, None, False),
        ({"max_workers": 2}, None, False),
        ({"worker_resources": "trainer=1"}, None, False),
        ({"data_label": "role=data"}, None, False),
        ({"cpus_per_worker": 0.5}, None, False),
        ({}, "10.0.0.1:6379", False),
    ],
)
def test_without_a_gpu_a_run_trains_in_its_process_unless_something_asks_for_ray(
    run: dict[str, object], address: str | None, here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moco_ray.cluster.workers.is_connected", lambda: False)  # other tests of a session may be
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    if torch.cuda.is_available() and run.get("num_workers") != 0:
        here = False
    assert trains_here(RunConfig(**run)) == here  # type: ignore[arg-type]
