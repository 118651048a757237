"""What a backbone is beside its weights: how to build it elsewhere, and what it computes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from moco_ray.config.model import TINY, VITS, ModelConfig
from moco_ray.core.timm_backbones import timm_arguments
from moco_ray.core.vit import timm_vit

_PROBE_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to build a backbone with the library that it comes from."""

    library: str
    """timm or torchvision."""
    version: str
    """Of the library that it was trained with."""
    name: str
    """The library's name of the model."""
    arguments: dict[str, Any]
    """What its builder is given beside the name."""
    code: str
    """Python lines that make `model`, without weights; its state dict has the backbone's keys."""


def recipe(config: ModelConfig, image_px: int) -> Recipe:
    """The recipe of `build_backbone(config, image_px)`."""
    if config.arch in (*VITS, TINY) or config.arch.startswith("timm:"):
        if config.arch in VITS:
            name, arguments = timm_vit(config.arch, patch_px=config.patch_px, image_px=image_px)
        elif config.arch == TINY:
            name, arguments = "test_resnet", {"num_classes": 0}
        else:
            name = config.arch.removeprefix("timm:")
            arguments = {**timm_arguments(name, image_px), "num_classes": 0}
        given = ", ".join([json.dumps(name), *(f"{key}={value!r}" for key, value in arguments.items())])
        code = f"import timm\nmodel = timm.create_model({given})"
        return Recipe(library="timm", version=version("timm"), name=name, arguments=arguments, code=code)
    import torchvision  # here, because it takes a second to import

    code = f"import torch, torchvision\nmodel = torchvision.models.{config.arch}()\nmodel.fc = torch.nn.Identity()"
    if config.stem == "cifar":
        code += "\nmodel.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)\nmodel.maxpool = torch.nn.Identity()"
    return Recipe(library="torchvision", version=torchvision.__version__, name=config.arch, arguments={}, code=code)


def network_numbers(backbone: nn.Module) -> dict[str, Any]:
    """What decides about a network's function and is neither in the names nor in the shapes of its weights.

    Returns:
        JSON values: num_heads, layer_norm_eps, batch_norm_eps (one number, or one for each name where they differ),
        strides and dilations (name of a convolution -> number, where it is not 1), activations (classes), pooling.
    """
    named = list(backbone.named_modules())
    heads = {name: module.num_heads for name, module in named if isinstance(getattr(module, "num_heads", None), int)}
    convolutions = [(name, module) for name, module in named if isinstance(module, nn.Conv2d)]
    return {
        "num_heads": _one_or_all(heads),
        "layer_norm_eps": _one_or_all({name: m.eps for name, m in named if isinstance(m, nn.LayerNorm)}),
        "batch_norm_eps": _one_or_all(
            {name: m.eps for name, m in named if isinstance(m, nn.modules.batchnorm._BatchNorm)}
        ),
        "strides": {name: m.stride[0] for name, m in convolutions if m.stride[0] != 1},
        "dilations": {name: m.dilation[0] for name, m in convolutions if m.dilation[0] != 1},
        "activations": sorted({_activation(m) for _, m in named if _is_activation(m)}),
        "pooling": _pooling(backbone),
    }


def different_numbers(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Where two networks of the same keys and shapes are not the same, in words; ours is the one that is built here."""
    return [
        f"{name.replace('_', ' ')} {_shown(theirs[name], value)} and not {_shown(value, theirs[name])}"
        for name, value in ours.items()
        if name in theirs and None not in (value, theirs[name]) and value != theirs[name]
    ]


@torch.no_grad()
def probe(backbone: nn.Module, image_px: int) -> list[float]:
    """What a backbone makes of one made-up image in evaluation mode: eight sums over all of its features.

    Two networks with the same weights that differ in any step of their function give other numbers. Empty where the
    features are not finite, or the network does not take images of this size.
    """
    some = next(backbone.parameters())
    was_training = backbone.training
    wave = torch.arange(3 * image_px * image_px, dtype=torch.float64).mul_(0.37).sin_().view(1, 3, image_px, image_px)
    try:
        features = backbone.eval()(wave.to(some)).double().cpu()[0]  # (d,)
    except Exception:  # it is built for images of another size
        return []
    finally:
        backbone.train(was_training)
    angles = torch.arange(1, len(features) + 1, dtype=torch.float64)[:, None] * torch.arange(1, 9)  # (d, 8)
    sums = features @ angles.cos() / len(features) ** 0.5
    return [float(f"{value:.6g}") for value in sums.tolist()] if bool(sums.isfinite().all()) else []


def same_probe(ours: list[float], theirs: list[float]) -> bool:
    """Whether two probes agree up to the order of floating-point sums."""
    if not ours or not theirs:
        return True
    scale = max(abs(value) for value in theirs)
    return all(abs(a - b) <= _PROBE_TOLERANCE * scale for a, b in zip(ours, theirs, strict=True))


def _one_or_all(values: dict[str, Any]) -> Any:
    """One value where all are the same; None where there are none."""
    if not values:
        return None
    return next(iter(values.values())) if len(set(values.values())) == 1 else values


def _shown(value: Any, other: Any) -> str:
    """A value in a message; of two that differ by name, one difference."""
    if isinstance(value, dict) and isinstance(other, dict):
        name = next(name for name in sorted({*value, *other}) if value.get(name) != other.get(name))
        return f"{value.get(name, 1)} ({name})"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _is_activation(module: nn.Module) -> bool:
    home = type(module).__module__.rsplit(".", 1)[-1]
    return home.startswith("activation") and not list(module.parameters()) and not list(module.children())


def _activation(module: nn.Module) -> str:
    tanh = getattr(module, "approximate", "none") == "tanh"
    return f"{type(module).__name__}{'Tanh' if tanh else ''}"


def _pooling(backbone: nn.Module) -> str | None:
    """How features are pooled, in timm's words."""
    head = getattr(backbone, "head", None)
    for pool in (getattr(backbone, "global_pool", None), getattr(head, "global_pool", None)):
        if isinstance(pool, str) and pool:
            return pool
        if isinstance(kind := getattr(pool, "pool_type", None), str) and kind:
            return kind
    return "avg" if isinstance(getattr(backbone, "avgpool", None), nn.AdaptiveAvgPool2d) else None
