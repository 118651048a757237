from __future__ import annotations

import pytest
import torch

from moco_ray.core import collectives
from tests.core.ranks import run_on_ranks


def test_one_rank_without_a_process_group_is_its_own_world() -> None:
    tensor = torch.arange(6).view(3, 2)
    assert (collectives.world_size(), collectives.rank()) == (1, 0)
    (gathered,) = collectives.all_gather_rows(tensor, [3])
    assert torch.equal(gathered, tensor)
    total = collectives.all_reduce_sum(tensor)
    total += 1
    assert torch.equal(tensor, torch.arange(6).view(3, 2))  # the argument stays as it is


def send_here(content: bytes, chunk_bytes: int) -> bytes:
    collectives._CHUNK_BYTES = chunk_bytes
    return collectives.bytes_from_rank_zero(content if collectives.rank() == 0 else None, torch.device("cpu"))


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 5])
def test_bytes_of_rank_zero_come_whole_to_all(content: bytes) -> None:
    assert run_on_ranks(3, send_here, content, 500) == [content] * 3
    assert collectives.bytes_from_rank_zero(content, torch.device("cpu")) == content
