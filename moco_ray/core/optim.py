"""The optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from moco_ray.config.optim import OptimConfig
from moco_ray.core.eager import SGD, AdamW
from moco_ray.core.lars import Lars


def build_optimizer(modules: Iterable[nn.Module], config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over all parameters of some modules that are not frozen, on the device on which they are.

    SGD and AdamW decay every parameter, as the references of v1, v2 and v3 do. LARS leaves out tensors of one
    dimension, as v3's and SimCLR's does, and so do the others where rates decay from block to block. Each takes all tensors at once. Its state is there from the beginning, of zeros,
    and one that it loads, perhaps of another device, becomes what steps here need.
    """
    optimizer = _build(_groups(list(modules), config), config)
    ways: list[dict[str, Any]] = [
        {name: group[name] for name in ("foreach", "fused") if name in group} for group in optimizer.param_groups
    ]

    def go_on_here(optimizer: torch.optim.Optimizer) -> None:
        for group, way in zip(optimizer.param_groups, ways, strict=True):
            group.update(way)
        _make_state(optimizer)

    _make_state(optimizer)
    optimizer.register_load_state_dict_post_hook(go_on_here)
    return optimizer


def check_layer_decay(backbone: nn.Module, config: OptimConfig) -> None:
    """Refuse rates that decay from block to block where no blocks are known.

    Raises:
        ValueError: They are not.
    """
    if config.layer_decay != 1 and not hasattr(backbone, "group_matcher"):
        raise ValueError(
            f"optim.layer-decay {config.layer_decay:g} is for Transformers and models of timm, whose blocks are known; use 1 "
            "for a torchvision ResNet"
        )


def _groups(modules: list[nn.Module], config: OptimConfig) -> list[dict[str, Any]]:
    """The parameters that learn; where rates decay from block to block, those of each, with its factor.

    Raises:
        ValueError: Its blocks are not known.
    """
    learned = [p for module in modules for p in module.parameters() if p.requires_grad]
    if config.layer_decay == 1:
        return [{"params": learned}]
    from timm.optim._param_groups import param_groups_layer_decay  # here, because timm takes seconds to import

    backbone = getattr(modules[0], "backbone", modules[0])
    check_layer_decay(backbone, config)
    groups = param_groups_layer_decay(backbone, weight_decay=config.weight_decay, layer_decay=config.layer_decay)
    own = {id(p) for group in groups for p in group["params"]}
    decayed: list[dict[str, Any]] = [  # timm gives the last block the whole rate; BEiT gives that to the head alone
        {
            **{name: group[name] for name in ("params", "weight_decay")},
            "lr_scale": config.layer_decay * group["lr_scale"],
        }
        for group in groups
    ]
    head = [p for p in learned if id(p) not in own]  # at the whole rate
    rest: list[dict[str, Any]] = [
        {"params": [p for p in head if p.ndim > 1]},
        {"params": [p for p in head if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [*decayed, *(group for group in rest if group["params"])]


def _build(parameters: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    lr, weight_decay = config.effective_lr, config.weight_decay
    flat: list[nn.Parameter] = [p for group in parameters for p in group["params"]]
    is_on_gpu = flat[0].is_cuda
    if config.optimizer == "adamw":
        return AdamW(parameters, lr=lr, weight_decay=weight_decay, foreach=not is_on_gpu, fused=is_on_gpu)
    if config.optimizer == "lars":
        return Lars(flat, lr=lr, momentum=config.momentum, weight_decay=weight_decay)
    return SGD(
        parameters,
        lr=lr,
        momentum=config.momentum,
        weight_decay=weight_decay,
        foreach=not is_on_gpu,  # fused on a CPU it copies channels-last gradients, and misreads those of another layout
        fused=is_on_gpu,
    )


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """Make what the first step would make, so that memory for it is there before, and mend what was loaded.

    Steps are the same as without. Moments take the layout in memory of their parameters, without which steps are slow.
    """
    for group in optimizer.param_groups:
        for p in group["params"]:
            state = optimizer.state[p]
            for name, new in _first_state(optimizer, group, p).items():
                value = state.setdefault(name, new)
                if value is None or value.stride() != new.stride() or value.device != new.device:
                    state[name] = new if value is None else new.copy_(value)


def _first_state(optimizer: torch.optim.Optimizer, group: dict[str, Any], p: Tensor) -> dict[str, Tensor]:
    if isinstance(optimizer, torch.optim.AdamW):
        step = torch.zeros((), device=p.device if group["fused"] else "cpu")
        return {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    return {"momentum_buffer": torch.zeros_like(p)} if group["momentum"] else {}
