"""float16 with a scaled loss, and gradients that are sent in bfloat16."""

from __future__ import annotations

import copy

import pytest
import torch

from moco_ray.config.optim import OptimConfig
from moco_ray.core.optim import build_optimizer
from moco_ray.core.step import Learner
from tests.core.ranks import run_on_ranks
from tests.core.tiny import MEAN, STD, tiny_learner, train


def _float32(learner: Learner, *, autocast: torch.dtype | None = None, compresses: bool = False) -> Learner:
    method = learner.method.float()
    return Learner(
        method,
        build_optimizer(method.trained(), OptimConfig(lr=0.1, weight_decay=1e-3)),
        mean=MEAN,
        std=STD,
        autocast=autocast,
        compresses_gradients=compresses,
    )


def test_float16_learns_near_float32() -> None:
    half, whole = _float32(tiny_learner(), autocast=torch.float16), _float32(tiny_learner())
    losses = [[value["train/loss"] for value in train(learner, 6)] for learner in (half, whole)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert half.scaler.state_dict()["scale"] > 1 and not whole.scaler.state_dict()


def test_a_step_whose_gradients_overflow_is_skipped_and_the_next_ones_are_scaled_less() -> None:
    learner = _float32(tiny_learner(), autocast=torch.float16)
    learner.scaler.load_state_dict({**learner.scaler.state_dict(), "scale": 2.0**40})
    before = copy.deepcopy(learner.method.query_encoder.state_dict())
    train(learner, 1)
    after = learner.method.query_encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "running" not in name and "num" not in name)
    assert learner.scaler.get_scale() < 2.0**40
    for step in range(1, 40):
        train(learner, 1, first_step=step)
    assert not all(torch.equal(before[name], after[name]) for name in before if "weight" in name)


def _losses(compresses: bool) -> list[float]:
    learner = _float32(tiny_learner(), compresses=compresses)
    return [value["train/loss"] for value in train(learner, 4)]


def test_gradients_sent_in_bfloat16_change_the_curve_a_little() -> None:
    (rounded, same), (whole, _) = (run_on_ranks(2, _losses, compresses) for compresses in (True, False))
    assert rounded == same
    assert rounded != whole
    assert rounded == pytest.approx(whole, rel=0.02)
