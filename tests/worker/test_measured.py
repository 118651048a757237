"""Results that are read a few steps late, as on a GPU: nothing is lost, and nothing stands in another place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from moco_ray.core.step_result import StepResult, contrast_means
from moco_ray.driver.run import pretrain
from moco_ray.worker import measured
from moco_ray.worker.measured import Measured
from tests.runs import losses, punctual_checkpoints, tiny_config


def result(loss: float) -> StepResult:
    return StepResult(totals=torch.tensor([loss, 0, 0, 0, 0, 0, 0], dtype=torch.float64), means=contrast_means(1, 1))


@pytest.fixture
def _late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "_STEPS_IN_FLIGHT", {"cpu": 2})


@pytest.mark.usefixtures("_late")
def test_the_last_steps_are_taken_when_everything_is() -> None:
    results = Measured(device=torch.device("cpu"), first=5)
    taken = []
    for step in range(5, 10):
        results.add(result(float(step)))
        taken.append(results.take(everything=False))
    taken.append(results.take(everything=True))
    assert [(first, [value["train/loss"] for value in values]) for first, values in taken] == [
        (5, []),
        (5, []),
        (5, [5.0]),
        (6, [6.0]),
        (7, [7.0]),
        (8, [8.0, 9.0]),
    ]


def test_results_of_the_cpu_are_there_at_once() -> None:
    results = Measured(device=torch.device("cpu"), first=0)
    results.add(result(1.0))
    assert [value["train/loss"] for value in results.take(everything=False)[1]] == [1.0]


def test_a_run_that_reads_late_is_the_same_run(images: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    runs = []
    for name in ("at once", "late"):
        if name == "late":
            request.getfixturevalue("_late")
        config = tiny_config(images, tmp_path / name, max_steps=11, checkpoint_every_steps=4, log_every_steps=1)
        with punctual_checkpoints():
            pretrain(config, say=lambda line: None)
        folder = tmp_path / name / "run"
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        timeless = [{key: line[key] for key in line if not key.startswith(("perf/", "eval/"))} for line in lines]
        runs.append((losses(folder).tolist(), timeless, sorted(path.name for path in folder.glob("checkpoint_*"))))
    assert runs[0][0] == runs[1][0] and len(runs[0][0]) == 11 and runs[0][2] == runs[1][2]
    assert runs[0][1] != runs[1][1]  # the second did read late: the lines that carry an interval are others
    rates = [{line["step"]: line["train/lr"] for line in run[1] if "train/lr" in line} for run in runs]
    assert all(rates[0][step] == rate for step, rate in rates[1].items())
