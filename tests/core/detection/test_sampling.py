"""Draws of anchors and regions depend on the image and on nothing beside it."""

from __future__ import annotations

import numpy as np
import torch

from moco_ray.core.detection.sampling import PositionSampler


def labels(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).choice([-1, 0, 1, 2], p=[0.2, 0.6, 0.1, 0.1], size=1000))


def sampler(*, seed: int = 0, key: int = 0) -> PositionSampler:
    return PositionSampler(64, 0.25, seed=seed, key=key)


def test_it_draws_as_many_as_asked_of_what_is_there() -> None:
    draw = sampler()
    draw.positions = np.array([5, 6])
    few = torch.tensor([1, 0, 0, -1])
    positive, negative = draw([labels(0), few])
    assert [int(mask.sum()) for mask in (*positive, *negative)] == [16, 1, 48, 2] and draw.num_drawn == 67
    assert bool((labels(0)[positive[0]] >= 1).all()) and bool((labels(0)[negative[0]] == 0).all())


def test_a_draw_is_that_of_its_position_seed_and_key_alone() -> None:
    draw, alone = sampler(), sampler()
    draw.positions, alone.positions = np.array([5, 6]), np.array([6])
    together = draw([labels(0), labels(1)])
    for masks, own in zip(together, alone([labels(1)]), strict=True):
        assert torch.equal(masks[1], own[0])
    for other in (sampler(seed=1), sampler(key=1)):
        other.positions = np.array([6])
        assert not torch.equal(other([labels(1)])[0][0], together[0][1])


def test_every_positive_is_drawn_about_as_often() -> None:
    draw, counts = sampler(), torch.zeros(1000)
    for position in range(200):
        draw.positions = np.array([position])
        counts += draw([labels(0)])[0][0]
    drawn = counts[labels(0) >= 1]
    expected = 200 * 16 / len(drawn)
    assert float(drawn.min()) > 0.3 * expected and float(drawn.max()) < 2.5 * expected
