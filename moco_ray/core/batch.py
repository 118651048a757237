"""One rank's part of one global batch: its BatchNorm groups, and Shuffle-BN as a permutation of key views."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco_ray.core import collectives
from moco_ray.core.hashing import hash64

_SHUFFLE = 0x5B  # keeps this draw apart from the others that are keyed by (seed, step)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The BatchNorm groups of one global batch that this rank holds, group after group."""

    arrays: dict[str, Tensor]
    """What the batch holds of the rows of this rank's groups, (n, ...) each, such as `query` and `key`."""
    rows: NDArray[np.int64]
    """(n,) ids of the rows."""
    indices: NDArray[np.int64]
    """(n,) of the same rows, their indices among all that training sees."""
    step: int
    """Number of the step, from 0."""
    groups: list[list[int]]
    """For each rank the groups it holds."""
    group_size: int
    """Images in a group (g)."""
    shuffle: NDArray[np.int64]
    """(B,) for each slot of the global key batch the row of the global batch whose key view it holds."""

    @property
    def query(self) -> Tensor:
        """(n, H, W, 3) uint8: the query views of the rows of this rank's groups."""
        return self.arrays["query"]

    @property
    def key(self) -> Tensor:
        """(n, H, W, 3) uint8: the key views in the same groups; slot i holds row `shuffle[i]` of the batch."""
        return self.arrays["key"]

    @property
    def global_batch_size(self) -> int:
        """Images in the global batch (B = G g)."""
        return len(self.shuffle)

    @property
    def num_groups(self) -> int:
        """Groups in the global batch (G)."""
        return self.global_batch_size // self.group_size

    def own_rows(self) -> Tensor:
        """Indices in the global batch of the rows of this rank's groups, (n,) int64."""
        held = torch.tensor(self.groups[collectives.rank()]).unsqueeze(1)
        return (held * self.group_size + torch.arange(self.group_size)).flatten()

    def gather(self, own: Tensor) -> Tensor:
        """Gather (n, ...) of every rank's rows, or slots, in the order of the batch, (B, ...). All ranks must call."""
        parts = collectives.all_gather_rows(own, [len(held) * self.group_size for held in self.groups])
        in_rank_order = torch.cat(parts) if len(parts) > 1 else parts[0]  # (B, ...)
        held = torch.tensor([group for rank in self.groups for group in rank])  # (G,) group of each gathered run
        by_group = in_rank_order.unflatten(0, (len(held), self.group_size))  # (G, g, ...)
        in_batch_order: Tensor = by_group[torch.argsort(held).to(own.device, non_blocking=True)]
        return in_batch_order.flatten(0, 1)

    def unshuffle(self, own: Tensor) -> Tensor:
        """Gather (n, ...) of every rank's slots and undo the shuffle: (B, ...), rows in order. All ranks must call."""
        slots = self.gather(own)
        return slots[without_wait(torch.from_numpy(np.argsort(self.shuffle)), slots.device)]

    def shuffled_rows(self) -> Tensor:
        """Indices in the global batch of the rows whose key views this rank's slots hold, (n,) int64."""
        return torch.from_numpy(self.shuffle)[self.own_rows()]

    def take(self, rows: Tensor) -> Batch:
        """The same batch with these of its rows, (m,) int64 on their device, in its arrays."""
        return replace(self, arrays={name: array[rows] for name, array in self.arrays.items()})

    def to(self, device: torch.device, stream: torch.cuda.Stream | None = None) -> Batch:
        """Move the arrays to a device; on a stream of their own while the device still computes the step before."""
        if stream is None:
            moved = {name: array.to(device, non_blocking=True) for name, array in self.arrays.items()}
            return replace(self, arrays=moved)
        with torch.cuda.stream(stream):
            there = self.to(device)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(stream)
        for array in there.arrays.values():
            array.record_stream(computing)  # or their memory would be given away once they are deleted here
        return there


def without_wait(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a small tensor from the host to a device, which need not be waited for."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


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


def resident_batch(
    query: Tensor,
    key: Tensor,
    rows: NDArray[np.int64],
    *,
    step: int,
    seed: int,
    num_groups: int,
    shuffle_bn: bool,
    indices: NDArray[np.int64] | None = None,
) -> Batch:
    """Cut this rank's part from a global batch that every rank holds, shuffling keys by index.

    For data that does not come from the stream: tests, benchmarks, images resident on the device.

    Args:
        query: (B, H, W, 3) uint8 query views.
        key: (B, H, W, 3) uint8 key views, in the order of the query views.
        rows: (B,) row ids.
        step: Number of the step.
        seed: Seed of the shuffle.
        num_groups: G.
        shuffle_bn: Whether key views change groups.
        indices: (B,) of the rows among those that training sees; None: it sees all.
    """
    size = len(query)
    slots = key_permutation(seed, step, size) if shuffle_bn else np.arange(size)
    batch = Batch(
        arrays={"query": query, "key": key[without_wait(torch.from_numpy(slots), key.device)]},
        rows=rows,
        indices=rows if indices is None else indices,
        step=step,
        groups=groups_per_rank(step * num_groups, num_groups, collectives.world_size()),
        group_size=size // num_groups,
        shuffle=slots,
    )
    own = batch.own_rows()
    part = batch.take(without_wait(own, query.device))
    return replace(part, rows=rows[own.numpy()], indices=batch.indices[own.numpy()])
