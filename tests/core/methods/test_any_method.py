"""What holds for every method: any number of ranks, micro-batches and interruptions give the same run."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from moco_ray.core import collectives
from moco_ray.core.agreement import ranks_agree
from moco_ray.core.group_batch_norm import keep_running_share
from tests.core.limits import FitsForward
from tests.core.methods.methods import CASES
from tests.core.ranks import run_on_ranks
from tests.core.tiny import assert_curves_equal, assert_states_equal, state_of, tiny_batch, train

NUM_STEPS = 5  # of 32 images in 8 groups


def train_here(micro_batch_groups: int | None) -> dict[str, dict[str, Any]]:
    """Train every method; in micro-batches where it can be cut into them."""
    runs = {}
    for name, case in CASES.items():
        learner = case.learner(micro_batch_groups if case.can_be_cut else None)
        curve = train(learner, NUM_STEPS)
        runs[name] = {"curve": curve, "state": state_of(learner), "agree": ranks_agree(learner.method)}
    return runs


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return train_here(None)


@pytest.mark.parametrize(("num_ranks", "micro_batch_groups"), [(2, None), (2, 1), (3, None), (3, 2)])
def test_any_number_of_ranks_gives_the_run_of_one(
    alone: dict[str, Any], num_ranks: int, micro_batch_groups: int | None
) -> None:
    runs = run_on_ranks(num_ranks, train_here, micro_batch_groups)
    for name in CASES:
        for run in runs:
            assert run[name]["agree"], name
            assert run[name]["curve"] == runs[0][name]["curve"], name
            assert_runs_equal(run[name], alone[name])


def memory_here(name: str) -> dict[str, Any]:
    """Train where memory is short on the first rank, which holds three groups of four images."""
    limit = 9 if collectives.rank() == 0 else 1000
    learner = replace(CASES[name], backbone=partial(FitsForward, limit)).learner()
    learner.try_memory(tiny_batch(0))
    return {"curve": train(learner, 3), "state": state_of(learner), "groups": learner.micro_batches.groups}


@pytest.mark.parametrize("name", ["end-to-end", "memory-bank"])
def test_memory_that_is_short_on_one_rank_changes_nothing(name: str) -> None:
    learner = replace(CASES[name], backbone=partial(FitsForward, 1000)).learner()
    alone = {"curve": train(learner, 3), "state": state_of(learner)}
    runs = run_on_ranks(3, memory_here, name)
    assert [run["groups"] < 3 for run in runs] == [True, False, False]
    for run in runs:
        assert_runs_equal(run, alone)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.can_be_cut])
def test_micro_batches_change_nothing(alone: dict[str, Any], name: str, groups: int) -> None:
    learner = CASES[name].learner(groups)
    curve = train(learner, NUM_STEPS)
    assert learner.micro_batches.groups == groups
    assert_runs_equal({"curve": curve, "state": state_of(learner)}, alone[name])


def resize_here(saved: bytes | None, first_step: int, num_steps: int) -> dict[str, Any]:
    """Resume each method's checkpoint, train, and return new ones that hold the full running statistics."""
    checkpoints = None if saved is None else torch.load(io.BytesIO(saved), weights_only=False)
    new = {}
    for name, case in CASES.items():
        learner = case.learner()
        if checkpoints is not None:
            learner.method.load_state_dict(checkpoints[name]["method"])
            learner.optimizer.load_state_dict(checkpoints[name]["optimizer"])
            keep_running_share(learner.method)
        curve = train(learner, num_steps, first_step=first_step)
        state = state_of(learner)
        method = {**learner.method.state_dict(), **state["statistics"]}
        new[name] = {"method": method, "optimizer": learner.optimizer.state_dict(), "curve": curve, "state": state}
    return new


def saved(checkpoints: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(checkpoints, buffer)
    return buffer.getvalue()


def test_a_run_that_changes_its_number_of_ranks_is_the_run_of_one(alone: dict[str, Any]) -> None:
    first = run_on_ranks(2, resize_here, None, 0, 2)[0]
    second = run_on_ranks(3, resize_here, saved(first), 2, 2)[0]
    third = resize_here(saved(second), 4, 1)
    for name in CASES:
        curve = first[name]["curve"] + second[name]["curve"] + third[name]["curve"]
        assert_runs_equal({"curve": curve, "state": third[name]["state"]}, alone[name])


@pytest.mark.parametrize("name", CASES)
def test_the_loss_falls(name: str) -> None:
    learner = CASES[name].learner()
    batches = [tiny_batch(step, shuffle_bn=learner.method.config.shuffles_keys) for step in range(5)]
    curve = [learner.step(batches[step % 5], lr=0.1).values()["train/loss"] for step in range(100)]
    assert sum(curve[-10:]) < sum(curve[10:20])  # a queue has filled by then, with which the loss rises


@pytest.mark.parametrize("name", CASES)
def test_frozen_parameters_stay_bitwise_the_same_in_both_encoders(name: str) -> None:
    learner = CASES[name].learner()
    frozen = {
        n: p.clone() for n, p in learner.method.named_parameters() if n.endswith(("patches.weight", "patches.bias"))
    }
    assert bool(frozen) == ("vit" in name)
    train(learner, 3)
    now = dict(learner.method.named_parameters())
    assert all(torch.equal(now[n], p) for n, p in frozen.items())
    trained = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert not trained & {id(now[n]) for n in frozen}


def assert_runs_equal(run: dict[str, Any], expected: dict[str, Any]) -> None:
    assert_curves_equal(run["curve"], expected["curve"], rel=1e-10)
    assert_states_equal(run["state"], expected["state"], rtol=1e-9, atol=1e-11)
