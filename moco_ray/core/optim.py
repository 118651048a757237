"""The optimizer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from moco_ray.config.optim import OptimConfig
from moco_ray.core.lars import Lars


def build_optimizer(modules: Iterable[nn.Module], config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over all parameters of some modules that are not frozen.

    SGD and AdamW decay every parameter, as the references of v1, v2 and v3 do. LARS leaves out tensors of one
    dimension, as v3's and SimCLR's does.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.effective_lr, weight_decay=config.weight_decay, foreach=True)
    if config.optimizer == "lars":
        return Lars(parameters, lr=config.effective_lr, momentum=config.momentum, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters, lr=config.effective_lr, momentum=config.momentum, weight_decay=config.weight_decay, foreach=True
    )


def make_state(optimizer: torch.optim.Optimizer) -> None:
    """Make what the first step of an optimizer from here would make, of zeros, so that memory for it is there before.

    Steps are the same as without; parameters that have their state keep it.
    """
    for group in optimizer.param_groups:
        for p in group["params"]:
            if optimizer.state[p]:
                continue
            if isinstance(optimizer, torch.optim.AdamW):
                state = {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                optimizer.state[p].update(state)
            elif group["momentum"]:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
