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
    return _build_sgd(parameters, config)


def _build_sgd(parameters: list[nn.Parameter], config: OptimConfig) -> torch.optim.SGD:
    """SGD in one pass over memory on a CPU, and elsewhere in few kernels, whatever the layout of a tensor."""
    is_fused = all(p.device.type == "cpu" for p in parameters)
    how = {"foreach": not is_fused, "fused": is_fused}
    optimizer = torch.optim.SGD(
        parameters, lr=config.effective_lr, momentum=config.momentum, weight_decay=config.weight_decay, **how
    )

    def prepare(optimizer: torch.optim.Optimizer) -> None:
        """Restore what a checkpoint of another device has of its own: how SGD runs there, and layouts in memory."""
        for group in optimizer.param_groups:
            group.update(how)
        if is_fused:  # it takes the momentum of each parameter for granted, and its layout for that of the parameter
            make_state(optimizer)
            for p, state in optimizer.state.items():
                state.update({name: torch.empty_like(p).copy_(value) for name, value in state.items()})

    prepare(optimizer)
    optimizer.register_load_state_dict_post_hook(prepare)
    return optimizer


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
