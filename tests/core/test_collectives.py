from __future__ import annotations

import torch

from moco_ray.core import collectives


def test_one_rank_without_a_process_group_is_its_own_world() -> None:
    tensor = torch.arange(6).view(3, 2)
    assert (collectives.world_size(), collectives.rank()) == (1, 0)
    (gathered,) = collectives.all_gather_rows(tensor, [3])
    assert torch.equal(gathered, tensor)
    total = collectives.all_reduce_sum(tensor)
    total += 1
    assert torch.equal(tensor, torch.arange(6).view(3, 2))  # the argument stays as it is
