"""The cluster is no hyper-parameter: real ranks against one process."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from moco_ray.core import collectives
from moco_ray.core.agreement import copy_from_rank_zero, ranks_agree
from moco_ray.core.batch import groups_per_rank, resident_batch
from moco_ray.core.group_batch_norm import keep_running_share
from tests.core.limits import FitsBackward, FitsForward, FitsLogits
from tests.core.ranks import run_on_ranks
from tests.core.tiny import assert_curves_equal, assert_states_equal, state_of, tiny_batch, tiny_learner, train

NUM_STEPS = 9


def train_here(micro_batch_groups: int | None = None) -> dict[str, Any]:
    learner = tiny_learner(micro_batch_groups=micro_batch_groups)
    curve = train(learner, NUM_STEPS)
    return {"curve": curve, "state": state_of(learner), "agree": ranks_agree(learner.method)}


def assert_runs_equal(run: dict[str, Any], expected: dict[str, Any]) -> None:
    assert_curves_equal(run["curve"], expected["curve"], rel=1e-11)
    assert_states_equal(run["state"], expected["state"], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("num_ranks", [2, 3, 5, 8])
@pytest.mark.parametrize("micro_batch_groups", [None, 1])
def test_any_number_of_ranks_gives_the_run_of_one(num_ranks: int, micro_batch_groups: int | None) -> None:
    alone = train_here()
    runs = run_on_ranks(num_ranks, train_here, micro_batch_groups)
    for run in runs:
        assert_runs_equal(run, alone)
        assert run["agree"]
        assert run["curve"] == runs[0]["curve"]


def resize_here(checkpoint: dict[str, Any] | None, first_step: int, num_steps: int) -> dict[str, Any]:
    """Resume a checkpoint, train, and return a new one that holds the full running statistics."""
    learner = tiny_learner()
    if checkpoint is not None:
        learner.method.load_state_dict(checkpoint["moco"])
        learner.optimizer.load_state_dict(copy.deepcopy(checkpoint["optimizer"]))  # ranks are sent shared memory
        keep_running_share(learner.method)
    curve = train(learner, num_steps, first_step=first_step)
    state = state_of(learner)
    moco = {**learner.method.state_dict(), **state["statistics"]}
    return {"moco": moco, "optimizer": learner.optimizer.state_dict(), "curve": curve, "state": state}


def test_a_run_that_changes_its_number_of_ranks_is_the_run_of_one() -> None:
    alone = resize_here(None, 0, NUM_STEPS)
    first = resize_here(None, 0, 3)
    second = run_on_ranks(3, resize_here, first, 3, 3)
    third = run_on_ranks(2, resize_here, second[2], 6, 3)
    curve = first["curve"] + second[0]["curve"] + third[0]["curve"]
    assert_runs_equal({"curve": curve, "state": third[1]["state"]}, alone)


def memory_here(kind: str, *, try_first: bool) -> dict[str, Any]:
    """Train where memory is short on the last rank only."""
    limit = 9 if collectives.rank() == collectives.world_size() - 1 else 1000
    backbone = {"forward": FitsForward, "backward": FitsBackward}.get(kind)
    learner = tiny_learner(partial(backbone, limit)) if backbone else tiny_learner()
    with FitsLogits(num_negatives=70, limit=limit if kind == "logits" else 1000):
        if try_first:
            learner.try_memory(tiny_batch(0))
        curve = train(learner, 3)
    return {"curve": curve, "state": state_of(learner), "groups": learner.micro_batches.groups}


@pytest.mark.parametrize(
    ("kind", "try_first"), [("forward", False), ("forward", True), ("backward", True), ("logits", True)]
)
def test_memory_that_runs_out_on_one_rank_changes_nothing(kind: str, try_first: bool) -> None:
    alone = memory_alone(kind)
    first, last = run_on_ranks(2, partial(memory_here, try_first=try_first), kind)
    assert first["groups"] >= 4 and last["groups"] == 2  # each rank holds 4 groups
    for run in (first, last):
        assert_runs_equal(run, alone)


def memory_alone(kind: str) -> dict[str, Any]:
    learner = tiny_learner(partial(FitsBackward, 1000)) if kind == "backward" else tiny_learner()
    return {"curve": train(learner, 3), "state": state_of(learner)}


def short_of_memory_here(kind: str) -> str:
    learner = tiny_learner(partial(FitsBackward, 9 if kind == "backward" else 1000))
    try:
        with FitsLogits(num_negatives=70, limit=9 if kind == "logits" else 1000):
            train(learner, 1)
    except torch.OutOfMemoryError:
        return "out of memory"
    return "trained"


@pytest.mark.parametrize("kind", ["logits", "backward"])
def test_memory_that_runs_out_once_the_reduction_is_armed_ends_the_step(kind: str) -> None:
    assert run_on_ranks(2, short_of_memory_here, kind) == ["out of memory"] * 2


def disagree_here(what: str) -> list[bool]:
    learner = tiny_learner()
    train(learner, 1)
    moco = learner.method
    tensor = {
        "query": moco.query_encoder.projector[0].weight.data,
        "key": moco.key_encoder.backbone.conv1.weight.data,
        "queue": moco.queue.keys,
        "pointer": moco.queue.pointer,
    }[what]
    before, agreed = tensor.clone(), [ranks_agree(moco)]
    if collectives.rank() == 1:
        flat = tensor.view(torch.int64).view(-1)
        flat[-1] += 1  # the last bit
    agreed.append(ranks_agree(moco))
    copy_from_rank_zero(moco)
    return [*agreed, ranks_agree(moco), torch.equal(tensor, before)]


def all_disagreements_here() -> dict[str, list[bool]]:
    return {what: disagree_here(what) for what in ("query", "key", "queue", "pointer")}


def test_one_bit_of_one_rank_is_noticed_and_repaired() -> None:
    for report in run_on_ranks(2, all_disagreements_here):
        assert report == {what: [True, False, True, True] for what in ("query", "key", "queue", "pointer")}


def test_one_rank_agrees_with_itself_and_has_nothing_to_copy() -> None:
    moco = tiny_learner().method
    before = [p.clone() for p in moco.parameters()]
    assert ranks_agree(moco)
    copy_from_rank_zero(moco)
    assert all(torch.equal(p, q) for p, q in zip(moco.parameters(), before, strict=True))


def gather_here(first_block: int) -> tuple[Tensor, Tensor, Tensor]:
    groups = groups_per_rank(first_block, 8, collectives.world_size())
    own = torch.tensor(groups[collectives.rank()])
    rows = (own.unsqueeze(1) * 10 + torch.arange(2)).flatten()  # rows 10 j and 10 j + 1 of group j
    batch_rows = torch.arange(16)
    batch = resident_batch(
        batch_rows.view(16, 1, 1, 1),
        batch_rows.view(16, 1, 1, 1),
        batch_rows.numpy(),
        step=first_block,
        seed=0,
        num_groups=8,
        shuffle_bn=True,
    )
    gathered_rows = batch.gather(batch.query.flatten())
    return replace(batch, groups=groups).gather(rows), gathered_rows, collectives.all_reduce_sum(torch.tensor(len(own)))


@pytest.mark.parametrize("first_block", [0, 8])
def test_groups_that_ranks_hold_in_unequal_numbers_come_back_in_batch_order(first_block: int) -> None:
    for rows, batch_rows, num_groups in run_on_ranks(3, gather_here, first_block):
        assert rows.tolist() == [10 * group + row for group in range(8) for row in range(2)]
        assert batch_rows.tolist() == list(range(16))
        assert int(num_groups) == 8
