"""What a watch says of evaluations that come late, and what it knows after a resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moco_ray.driver.plan import make_plan, open_run
from moco_ray.tasks.job import Job
from moco_ray.tasks.learning import LearningWatch, chance_of
from moco_ray.tasks.pretraining import PRETRAINING
from tests.runs import tiny_config


@pytest.fixture
def job(images: Path, tmp_path: Path) -> Job:
    config = tiny_config(images, tmp_path)
    config = replace(config, optim=replace(config.optim, epochs=50))
    return make_plan(PRETRAINING, config, open_run(config)).job(uses_gpu=False, lease_owner="")


def _state(updates: int) -> dict[str, Any]:
    return {
        "method": {
            "query_encoder.weight": torch.ones(2),
            "query_encoder.bn.num_batches_tracked": torch.tensor(updates),
        }
    }


def _evaluate(watch: LearningWatch, spreads: dict[int, float], order: list[int]) -> list[str]:
    """Evaluations begin in the order of their steps and end in another one; what is said, and whether it is a collapse."""
    lines = {step: {"step": step, "eval/uniformity": -spread, "eval/rankme": 20.0} for step, spread in spreads.items()}
    for step in sorted(spreads):
        watch.see(step, _state(step))
    said, there = [], []
    for step in order:
        there = sorted([*there, lines[step]], key=lambda line: line["step"])
        said += watch.warnings(lines[step], there, 5.0)
    return said


def test_an_evaluation_that_comes_late_is_judged_by_its_own_weights(job: Job) -> None:
    watch = LearningWatch(job)
    said = _evaluate(watch, {10: 1e-6, 40: 0.5}, [40, 10])
    assert len(said) == 1 and "those of 10 steps" in said[0]
    assert watch.collapse() is None


@pytest.mark.parametrize("order", [[100, 200, 300, 400], [100, 400, 300, 200]])
def test_a_collapse_is_one_of_the_last_two_evaluations_whatever_their_order(job: Job, order: list[int]) -> None:
    watch = LearningWatch(job)
    said = _evaluate(watch, {100: 0.01, 200: 0.015, 300: 1e-6, 400: 1e-6}, order)
    assert len(said) == 1 and "the encoder has collapsed: " in said[0]
    assert "the encoder has collapsed: " in str(watch.collapse())
    healthy = _evaluate(watch, {500: 0.1, 600: 0.2}, [500, 600])
    assert not healthy and watch.collapse() is None


def test_one_evaluation_warns_and_is_no_reason_to_stop(job: Job) -> None:
    watch = LearningWatch(job)
    assert len(_evaluate(watch, {100: 0.5, 200: 1e-6}, [100, 200])) == 1
    assert watch.collapse() is None


def test_a_loss_at_chance_is_said_once_and_known_after_a_resume(job: Job) -> None:
    chance = chance_of(job.config, job.num_rows, job.last_step)
    assert chance is not None and chance.from_step == 8 and chance.patience == 100
    at_chance = [{"train/loss": chance.loss, "train/contrast_accuracy": 60.0}] * 10
    watch = LearningWatch(job)
    said = [text for first in range(0, 100, 10) for text in watch.steps_warnings(first, at_chance)]
    assert not said and watch.collapse() is None
    again = LearningWatch(job)
    again.restore(watch.state())
    said = [text for first in range(100, 200, 10) for text in again.steps_warnings(first, at_chance)]
    assert len(said) == 1 and "since step 10 the loss (4.394; chance gives 4.394)" in said[0]
    assert again.collapse() == again.state()["collapse"]["steps"] is not None
    third = LearningWatch(job)
    third.restore(again.state())
    assert third.collapse() == again.collapse()
    assert not third.steps_warnings(200, at_chance) and third.collapse()
    assert not third.steps_warnings(210, [{"train/loss": 3.0, "train/contrast_accuracy": 60.0}])
    assert third.collapse() is None
    old = LearningWatch(job)
    old.restore({})  # of a checkpoint from before
    assert old.collapse() is None
