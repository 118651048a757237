"""Which rank holds which BatchNorm group of the global batch, and which key view goes to which group."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco_ray.core import collectives
from moco_ray.core.hashing import hash64

_SHUFFLE = 0x5B  # keeps this draw apart from the others that are keyed by (seed, step)


def groups_per_rank(first_block: int, num_groups: int, num_ranks: int) -> list[list[int]]:
    """Deal the groups of one batch to ranks, block after block.

    Blocks are dealt round-robin from the start of the stream, so where the number of ranks does not divide the
    number of groups, the rank that gets group 0 changes from batch to batch.

    Args:
        first_block: Number of group 0's block since the stream was opened.
        num_groups: Groups in a global batch (G).
        num_ranks: Ranks that share them (W <= G).

    Returns:
        For each rank the groups it holds, ascending.
    """
    ranks: list[list[int]] = [[] for _ in range(num_ranks)]
    for group in range(num_groups):
        ranks[(first_block + group) % num_ranks].append(group)
    return ranks


def useful_rank_counts(num_groups: int, fewest: int, most: int) -> list[int]:
    """Numbers of ranks worth having: a step takes the time of ceil(G / W) groups, so some numbers buy nothing.

    Args:
        num_groups: Groups in a global batch (G).
        fewest: Fewest ranks, from 1.
        most: Most ranks.

    Returns:
        Of all numbers in fewest..most that take the same time the smallest, ascending; G = 8: 1, 2, 3, 4, 8.
    """
    counts = range(fewest, min(most, num_groups) + 1)
    return [w for w in counts if w == fewest or -(-num_groups // w) < -(-num_groups // (w - 1))]


def key_permutation(seed: int, step: int, batch_size: int) -> NDArray[np.int64]:
    """Shuffle-BN's permutation: slot i of the key batch holds the key view of row permutation[i].

    A pure function of (seed, step), so that whoever prepares the batch can put each key view straight into its
    shuffled group (arXiv:1911.05722, Sec. 3.3, "Shuffling BN").
    """
    return np.argsort(hash64(seed, step, _SHUFFLE, np.arange(batch_size)), kind="stable").astype(np.int64)


def gather_groups(rows: Tensor, groups: list[list[int]], group_size: int) -> Tensor:
    """Gather the rows of every group into batch order. All ranks must call.

    Args:
        rows: (len(groups[rank]) * group_size, ...) rows of this rank's groups.
        groups: For each rank the groups it holds.
        group_size: Rows in a group.

    Returns:
        (G * group_size, ...), group after group.
    """
    parts = collectives.all_gather_rows(rows, [len(held) * group_size for held in groups])
    in_rank_order = torch.cat(parts) if len(parts) > 1 else parts[0]
    held = torch.tensor([group for rank in groups for group in rank])  # group of each gathered run
    by_group = in_rank_order.unflatten(0, (len(held), group_size))
    in_batch_order: Tensor = by_group[torch.argsort(held).to(rows.device, non_blocking=True)]
    return in_batch_order.flatten(0, 1)
