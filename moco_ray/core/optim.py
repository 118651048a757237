"""The optimizer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from moco_ray.config.optim import OptimConfig as OptimConfig


def build_optimizer(modules: Iterable[nn.Module], config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over all parameters of some modules that are not frozen.

    SGD and AdamW decay every parameter, as the references of v1, v2 and v3 do. LARS (You et al. 2017,
    arXiv:1708.03888) is timm's, with trust coefficient 0.001; tensors of one dimension get neither weight decay nor
    trust scaling.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.effective_lr, weight_decay=config.weight_decay)
    if config.optimizer == "lars":
        return _lars(parameters, config)
    return torch.optim.SGD(
        parameters, lr=config.effective_lr, momentum=config.momentum, weight_decay=config.weight_decay
    )


def _lars(parameters: list[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    from timm.optim.lars import Lars  # here, because timm takes seconds to import

    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay, "always_adapt": True},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "always_adapt": False},
    ]
    optimizer: torch.optim.Optimizer = Lars(
        [group for group in groups if group["params"]],
        lr=config.effective_lr,
        momentum=config.momentum,
        trust_coeff=0.001,
    )
    return optimizer
