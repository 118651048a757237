"""The few collectives that the algorithm needs. Each is the identity where there is one rank."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_CHUNK_BYTES = 2**26
# Torch 2.11 knows it by its older name.
_all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this rank, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def host_group() -> dist.ProcessGroup | None:
    """A group of all ranks for tensors on the CPU; None where the default one takes them. All ranks must call."""
    if world_size() == 1 or dist.get_backend() == "gloo":
        return None
    group: dist.ProcessGroup = dist.new_group(backend="gloo")
    return group


@torch.no_grad()
def all_reduce_sum(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Sum a tensor over all ranks; int64 wraps. All ranks must call; the argument stays as it is."""
    if world_size() == 1:
        return tensor.clone()
    total = tensor.detach().clone()
    dist.all_reduce(total, group=group)
    return total


def all_reduce_min(number: int, device: torch.device) -> int:
    """The smallest number of all ranks. All ranks must call; the device is one that they reduce on."""
    if world_size() == 1:
        return number
    smallest = torch.tensor(number, device=device)
    dist.all_reduce(smallest, dist.ReduceOp.MIN)
    return int(smallest)


def bytes_from_rank_zero(content: bytes | None, device: torch.device) -> bytes:
    """Send bytes that rank 0 has to all. All ranks must call; the device is one that they send from.

    Args:
        content: The bytes on rank 0, None elsewhere.
        device: Where pieces of them pass through, 64 MB at a time.
    """
    if world_size() == 1:
        assert content is not None
        return content
    size = torch.tensor(len(content or b""), device=device)
    dist.broadcast(size, 0)
    received = []
    for start in range(0, int(size), _CHUNK_BYTES):
        if content is not None:
            piece = bytearray(content[start : start + _CHUNK_BYTES])
            dist.broadcast(torch.frombuffer(piece, dtype=torch.uint8).to(device), 0)
        else:
            sent = torch.empty(min(_CHUNK_BYTES, int(size) - start), dtype=torch.uint8, device=device)
            dist.broadcast(sent, 0)
            received.append(sent.cpu().numpy().tobytes())
    return b"".join(received) if content is None else content


def all_gather_rows(rows: Tensor, rows_per_rank: list[int]) -> list[Tensor]:
    """Gather tensors that differ in their first dimension. All ranks must call.

    Gradients flow back: those of all ranks' copies are summed where the rows came from, and if one rank goes
    through a backward pass, all must.

    Args:
        rows: (rows_per_rank[rank], ...) of this rank.
        rows_per_rank: First dimension on each rank, known to all.

    Returns:
        One tensor for each rank, in rank order.
    """
    if world_size() == 1:
        return [rows]
    longest = max(rows_per_rank)  # gloo gathers only equal shapes, so shorter ones are padded
    padded = torch.cat([rows, rows.new_zeros((longest - len(rows), *rows.shape[1:]))])
    gathered: Tensor = _AllGather.apply(padded)  # type: ignore[no-untyped-call]
    return [part[:n] for part, n in zip(gathered.split(longest), rows_per_rank, strict=True)]


class _AllGather(torch.autograd.Function):
    """(n, ...) of every rank -> (W * n, ...)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        gathered = rows.new_empty((world_size() * len(rows), *rows.shape[1:]))
        _all_gather_single(gathered, rows)
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient).chunk(world_size())[rank()]
