"""The optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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
    all_at_once: Any = {"fused": True} if parameters[0].is_cuda else {"foreach": True}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.effective_lr, weight_decay=config.weight_decay, **all_at_once)
    if config.optimizer == "lars":
        return Lars(parameters, lr=config.effective_lr, momentum=config.momentum, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters, lr=config.effective_lr, momentum=config.momentum, weight_decay=config.weight_decay, **all_at_once
    )


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state that another process has saved, perhaps on another device, and go on in this one's way.

    Moments take the memory format of their weights, or tensors could not be taken all at once.
    """
    ways: list[dict[str, Any]] = [
        {name: group[name] for name in ("foreach", "fused") if name in group} for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, way in zip(optimizer.param_groups, ways, strict=True):
        group.update(way)
        for p in group["params"]:
            for name, value in optimizer.state[p].items():
                if name == "step":
                    optimizer.state[p][name] = value.to(p.device if way.get("fused") else "cpu")
                elif isinstance(value, torch.Tensor) and value.stride() != p.stride():
                    optimizer.state[p][name] = torch.empty_like(p).copy_(value)


def make_state(optimizer: torch.optim.Optimizer) -> None:
    """Make what the first step of an optimizer from here would make, of zeros, so that memory for it is there before.

    Steps are the same as without; parameters that have their state keep it.
    """
    for group in optimizer.param_groups:
        for p in group["params"]:
            if optimizer.state[p]:
                continue
            if isinstance(optimizer, torch.optim.AdamW):
                step = torch.zeros((), device=p.device if group["fused"] else "cpu")
                state = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                optimizer.state[p].update(state)
            elif group["momentum"]:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
