from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moco_ray.core.queue import Queue


def keys(first: int, number: int) -> Tensor:
    return F.normalize(torch.randn(40, 4, generator=torch.Generator().manual_seed(2)), dim=1)[first : first + number]


def test_starts_with_random_directions_of_unit_length() -> None:
    queue, other = (Queue(2000, 16, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(2000))
    assert queue.keys.mean(dim=0).abs().max() < 0.05 and not torch.equal(queue.keys, other.keys)
    assert torch.equal(queue.keys, Queue(2000, 16, torch.Generator().manual_seed(0)).keys)


def test_enqueue_wraps_and_overwrites_oldest_keys() -> None:
    queue = Queue(10, 4, torch.Generator().manual_seed(0))
    expected = queue.keys.clone()
    for first in range(0, 28, 7):
        queue.enqueue(keys(first, 7))
        for i, key in enumerate(keys(first, 7)):
            expected[(first + i) % 10] = key
        assert torch.equal(queue.keys, expected)
        assert int(queue.pointer) == (first + 7) % 10 and int(queue.num_enqueued) == first + 7


def test_holds_exactly_the_newest_keys_once_full() -> None:
    queue = Queue(10, 4)
    for first in range(0, 21, 3):
        queue.enqueue(keys(first, 3))
    newest = {tuple(key) for key in keys(11, 10).tolist()}
    assert {tuple(key) for key in queue.keys.tolist()} == newest


def test_fill_rises_to_one_and_stays() -> None:
    queue, fills = Queue(10, 4), []
    for _ in range(4):
        fills.append(queue.fill)
        queue.enqueue(keys(0, 4))
    assert fills == [0.0, 0.4, 0.8, 1.0]


def test_a_batch_as_large_as_the_queue_replaces_all_and_a_larger_one_is_refused() -> None:
    queue = Queue(10, 4)
    queue.enqueue(keys(0, 3))
    queue.enqueue(keys(0, 10))
    assert torch.equal(queue.keys.roll(-3, dims=0), keys(0, 10)) and int(queue.pointer) == 3
    with pytest.raises(AssertionError):
        queue.enqueue(keys(0, 11))


def test_keeps_its_dtype_and_no_graph() -> None:
    queue = Queue(10, 4)
    queue.enqueue(keys(0, 3).double().requires_grad_())
    assert queue.keys.dtype == torch.float32 and not queue.keys.requires_grad
    assert not list(queue.parameters())
