"""Rates as functions of the position in the run."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "milestones", "constant"]


def rate_factor(
    schedule: Schedule,
    epoch: float,
    num_epochs: float,
    *,
    milestones: tuple[float, ...] = (),
    warmup: float = 0.0,
) -> float:
    """Factor on the learning rate.

    Args:
        schedule: "milestones" (v1: a tenth at each milestone), "cosine" (v2) or "constant".
        epoch: Epochs done: whole for schedules that move once an epoch, fractional for once a step.
        num_epochs: Length of the run.
        milestones: Epochs at which the rate falls to a tenth.
        warmup: Epochs of linear warm-up from 0; the cosine spans what follows (v3).

    Returns:
        Factor in 0..1.
    """
    if epoch < warmup:
        return epoch / warmup
    if schedule == "milestones":
        return float(0.1 ** sum(epoch >= milestone for milestone in milestones))
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * (epoch - warmup) / (num_epochs - warmup)))
    return 1.0
