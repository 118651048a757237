from __future__ import annotations

import math

import pytest

from moco_ray.config.schedules import rate_factor


def test_milestones_take_a_tenth_from_their_epoch_on() -> None:
    factors = [rate_factor("milestones", epoch, 200, milestones=(120, 160)) for epoch in (0, 119, 120, 159, 160, 199)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_falls_from_one_to_zero() -> None:
    factors = [rate_factor("cosine", epoch, 200) for epoch in (0, 50, 100, 150, 199, 200)]
    half = math.sqrt(0.5)
    assert factors == pytest.approx([1, (1 + half) / 2, 0.5, (1 - half) / 2, 6.168e-5, 0], abs=1e-8)


def test_warmup_rises_linearly_and_the_cosine_spans_what_follows() -> None:
    factors = [rate_factor("cosine", epoch, 110, warmup=10) for epoch in (0, 2.5, 10, 60, 110)]
    assert factors == pytest.approx([0, 0.25, 1, 0.5, 0])


def test_constant_stays() -> None:
    assert {rate_factor("constant", epoch, 10) for epoch in (0, 5, 9.9)} == {1.0}
