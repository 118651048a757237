"""What ranks tell each other at a sync step."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.distributed as dist

from moco_ray.core import collectives
from moco_ray.data.stream import BadRow


def gather_bad(bad: list[BadRow], group: dist.ProcessGroup | None) -> list[BadRow]:
    """Bad rows of all ranks. All ranks must call."""
    if collectives.world_size() == 1:
        return bad
    parts: list[list[BadRow]] = [[] for _ in range(collectives.world_size())]
    dist.all_gather_object(parts, bad, group)
    return [item for part in parts for item in part]


@dataclass(kw_only=True)
class Signals:
    """What ranks tell each other at a sync step; all but the last two are rank 0's alone."""

    checkpoint: float = 0.0
    save: float = 0.0
    poll: float = 0.0
    steps_to_next_sync: float = 0.0
    stop: float = 0.0
    num_bad: float = 0.0
    wait_fraction: float = 0.0

    def summed_over_ranks(self, group: dist.ProcessGroup | None) -> Signals:
        """The sums over ranks, which all then know. All ranks must call."""
        own = torch.tensor([getattr(self, item.name) for item in fields(self)], dtype=torch.float64)
        sums = collectives.all_reduce_sum(own, group).tolist()
        return Signals(**{item.name: value for item, value in zip(fields(self), sums, strict=True)})
