"""One rank's part of one global batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco_ray.core import collectives
from moco_ray.core.layout import gather_groups, groups_per_rank, key_permutation


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The BatchNorm groups of one global batch that this rank holds, group after group."""

    query: Tensor
    """(n, H, W, 3) uint8: the query views of the rows of this rank's groups."""
    key: Tensor
    """(n, H, W, 3) uint8: the key views in the same groups; slot i holds row `key_rows_of_slots[i]` of the batch."""
    rows: NDArray[np.int64]
    """(n,) ids of the query rows."""
    step: int
    """Number of the step, from 0."""
    groups: list[list[int]]
    """For each rank the groups it holds."""
    group_size: int
    """Images in a group (g)."""
    key_rows_of_slots: NDArray[np.int64]
    """(B,) for each slot of the global key batch the row of the global batch whose key view it holds."""

    @property
    def global_batch_size(self) -> int:
        """Images in the global batch (B = G g)."""
        return len(self.key_rows_of_slots)

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
        return gather_groups(own, self.groups, self.group_size)

    def gather_keys(self, own: Tensor) -> Tensor:
        """Gather (n, ...) of every rank's slots and undo the shuffle: (B, ...), rows in order. All ranks must call."""
        slots = self.gather(own)
        return slots[without_wait(torch.from_numpy(np.argsort(self.key_rows_of_slots)), slots.device)]

    def own_slot_rows(self) -> Tensor:
        """Indices in the global batch of the rows whose key views this rank's slots hold, (n,) int64."""
        return torch.from_numpy(self.key_rows_of_slots)[self.own_rows()]

    def to(self, device: torch.device, stream: torch.cuda.Stream | None = None) -> Batch:
        """Move the images to a device; on a stream of their own while the device still computes the step before."""
        if stream is None:
            query, key = (images.to(device, non_blocking=True) for images in (self.query, self.key))
            return replace(self, query=query, key=key)
        with torch.cuda.stream(stream):
            moved = self.to(device)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(stream)
        for images in (moved.query, moved.key):
            images.record_stream(computing)  # or their memory would be given away once they are deleted here
        return moved


def without_wait(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a small tensor from the host to a device, which need not be waited for."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def resident_batch(
    query: Tensor,
    key: Tensor,
    rows: NDArray[np.int64],
    *,
    step: int,
    seed: int,
    num_groups: int,
    shuffle_bn: bool,
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
    """
    size = len(query)
    slots = key_permutation(seed, step, size) if shuffle_bn else np.arange(size)
    batch = Batch(
        query=query,
        key=key[without_wait(torch.from_numpy(slots), key.device)],
        rows=rows,
        step=step,
        groups=groups_per_rank(step * num_groups, num_groups, collectives.world_size()),
        group_size=size // num_groups,
        key_rows_of_slots=slots,
    )
    own = batch.own_rows()
    there = without_wait(own, query.device)
    return replace(batch, query=batch.query[there], key=batch.key[there], rows=rows[own.numpy()])
