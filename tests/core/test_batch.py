from __future__ import annotations

import numpy as np
import pytest
import torch

from moco_ray.core.batch import groups_per_rank, key_permutation, resident_batch, useful_rank_counts
from tests.core.tiny import BATCH_SIZE, GROUP_SIZE, tiny_batch, views


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5, 8])
def test_blocks_go_round_the_ranks_from_batch_to_batch(num_ranks: int) -> None:
    dealt = {}
    for step in range(6):
        for rank, held in enumerate(groups_per_rank(step * 8, 8, num_ranks)):
            assert held == sorted(held) and 8 // num_ranks <= len(held) <= -(-8 // num_ranks)
            dealt.update({step * 8 + group: rank for group in held})
    assert dealt == {block: block % num_ranks for block in range(48)}


@pytest.mark.parametrize(
    ("num_groups", "fewest", "most", "useful"),
    [
        (8, 1, 8, [1, 2, 3, 4, 8]),
        (8, 1, 7, [1, 2, 3, 4]),
        (8, 3, 8, [3, 4, 8]),
        (8, 5, 7, [5]),  # the fewest that are asked for, though four were as fast
        (8, 5, 8, [5, 8]),
        (6, 1, 100, [1, 2, 3, 6]),
        (1, 1, 1, [1]),
    ],
)
def test_useful_numbers_of_ranks(num_groups: int, fewest: int, most: int, useful: list[int]) -> None:
    assert useful_rank_counts(num_groups, fewest, most) == useful


@pytest.mark.parametrize("num_groups", [1, 7, 8, 12, 64])
def test_each_useful_number_of_ranks_makes_the_longest_share_shorter_and_none_is_left_out(num_groups: int) -> None:
    def longest_share(num_ranks: int) -> int:
        return max(len(held) for held in groups_per_rank(0, num_groups, num_ranks))

    useful = useful_rank_counts(num_groups, 1, num_groups)
    shares = [longest_share(ranks) for ranks in useful]
    assert shares == sorted(set(shares), reverse=True)
    assert set(shares) == {longest_share(ranks) for ranks in range(1, num_groups + 1)}


def test_the_key_shuffle_is_a_permutation_that_seed_and_step_determine() -> None:
    draws = {(seed, step): key_permutation(seed, step, 256) for seed in (0, 1) for step in (0, 1, 10**9)}
    assert all(sorted(draw) == list(range(256)) for draw in draws.values())
    assert len({tuple(draw) for draw in draws.values()}) == len(draws)
    assert np.array_equal(key_permutation(0, 1, 256), draws[0, 1])


def test_the_key_shuffle_is_uniform() -> None:
    sources = np.array([key_permutation(3, step, 8)[0] for step in range(4000)])
    counts = np.bincount(sources, minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 26  # chi-squared with 7 degrees of freedom: p = 5e-4


def test_most_keys_are_in_another_group_than_their_query() -> None:
    moved = [(key_permutation(0, step, 256) // 32 != np.arange(256) // 32).mean() for step in range(20)]
    assert np.mean(moved) == pytest.approx(7 / 8, abs=0.02) and min(moved) > 0.75


def test_a_resident_batch_puts_each_key_view_into_the_slot_the_permutation_says() -> None:
    query, key = views(3)
    batch = tiny_batch(3)
    assert torch.equal(batch.query, query)
    assert all(torch.equal(batch.key[slot], key[row]) for slot, row in enumerate(batch.shuffle))
    assert not torch.equal(batch.key, key)
    assert torch.equal(tiny_batch(3, shuffle_bn=False).key, key)
    assert (batch.global_batch_size, batch.num_groups, batch.group_size) == (BATCH_SIZE, 8, GROUP_SIZE)


def test_the_unshuffle_restores_the_order_of_rows() -> None:
    rows = torch.arange(BATCH_SIZE)
    image = rows.view(-1, 1, 1, 1).expand(-1, 2, 2, 3).to(torch.uint8)
    batch = resident_batch(image, image, rows.numpy(), step=1, seed=0, num_groups=8, shuffle_bn=True)
    slots = batch.gather(batch.key[:, 0, 0, 0])
    unshuffled = torch.empty_like(slots)
    unshuffled[torch.from_numpy(batch.shuffle)] = slots
    assert unshuffled.tolist() == list(range(BATCH_SIZE)) and slots.tolist() != list(range(BATCH_SIZE))


def test_moving_a_batch_keeps_all_but_the_device() -> None:
    batch = tiny_batch(0).to(torch.device("meta"))
    assert batch.query.is_meta and batch.key.is_meta and batch.step == 0 and len(batch.rows) == BATCH_SIZE
