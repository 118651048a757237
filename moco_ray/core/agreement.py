"""Notice when ranks that should hold the same state do not."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moco_ray.core import collectives


def checksum(module: nn.Module) -> Tensor:
    """Sum of the bits of all parameters, queue or bank, () int64: equal for bitwise equal state, and for little else.

    Not seen: elements that change places within a tensor. Buffers of BatchNorm are left out: each rank holds a share
    of its own.
    """
    tensors = [*(p.detach() for p in module.parameters()), *_shared_buffers(module)]
    total = torch.zeros((), dtype=torch.int64, device=tensors[0].device)
    for index, tensor in enumerate(tensors, start=1):
        bits = tensor.contiguous().view(torch.int64 if tensor.element_size() == 8 else torch.int32)
        total += index * bits.sum(dtype=torch.int64)
    return total


def ranks_agree(module: nn.Module) -> bool:
    """Whether all ranks hold bitwise the same parameters, queue or bank. All ranks must call."""
    if collectives.world_size() == 1:
        return True
    own = checksum(module).reshape(1)
    return bool((torch.cat(collectives.all_gather_rows(own, [1] * collectives.world_size())) == own).all())


@torch.no_grad()
def copy_from_rank_zero(module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Overwrite parameters, queue or bank, and the optimizer's tensors by those of rank 0. All ranks must call."""
    if collectives.world_size() == 1:
        return
    for parameter in module.parameters():
        dist.broadcast(parameter.detach(), src=0)
    for buffer in _shared_buffers(module):
        dist.broadcast(buffer, src=0)
    if optimizer is not None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                for value in optimizer.state[parameter].values():
                    # Not the steps that AdamW counts on the CPU beside parameters on a GPU.
                    if isinstance(value, Tensor) and value.device == parameter.device:
                        dist.broadcast(value, src=0)


def _shared_buffers(module: nn.Module) -> list[Tensor]:
    """Buffers that all ranks hold alike: all but BatchNorm's."""
    return [
        buffer
        for part in module.modules()
        if not isinstance(part, nn.modules.batchnorm._BatchNorm)
        for buffer in part.buffers(recurse=False)
    ]
