"""What a layout is, and how other libraries call our backbones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moco_ray.config.model import TINY, VITS, ModelConfig
from moco_ray.core.recipe import recipe

_TORCHVISION = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
"""ResNets that are the same network under the same name in torchvision and timm."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """An encoder to be written."""

    backbone: nn.Module
    """In evaluation mode, float32, on the CPU: images (N, 3, H, W) -> features (N, d)."""
    model: ModelConfig
    """How it was built."""
    info: dict[str, Any]
    """What `encoder_info` tells of it."""
    content: bytes
    """Our own file of it."""

    @property
    def crop_px(self) -> int:
        """Side of the images that it was trained on."""
        return int(self.info["crop_px"])

    def state(self) -> dict[str, Tensor]:
        """Its weights, by the names of torchvision or timm."""
        return {
            name: tensor.detach().clone(memory_format=torch.contiguous_format)
            for name, tensor in self.backbone.state_dict().items()
        }


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A way to write an encoder down."""

    name: str
    """As --to names it."""
    suffixes: tuple[str, ...]
    """What the file's name ends in; empty: it is a folder of files."""
    write: Callable[[Source, str], dict[str, bytes]]
    """Content of each file by its name in the folder, or of the one file by the empty name; given its suffix.
    Raises ValueError where the layout has no such backbone."""
    given: Callable[[Source], dict[str, Any]]
    """What the program below is told, as JSON values."""
    program: str
    """Lines of Python that load the file `given["path"]` with the library that it is for, and end in
    `done(features, by)`: the features of the array `images`, and who has loaded the file."""
    hints: Callable[[Source, str], list[str]]
    """Lines of Python that load it, for people; given its place."""


def torchvision_name(source: Source, *, layout: str = "torchvision") -> str:
    """The name of a ResNet in torchvision.

    Raises:
        ValueError: torchvision has no such network.
    """
    arch = _plain(source.model.arch)
    if arch not in _TORCHVISION:
        raise ValueError(
            f"the layout {layout} is for torchvision's ResNets, and {source.model.arch} is none of them; use --to timm, "
            "huggingface, onnx or safetensors"
        )
    if source.model.stem == "cifar":
        raise ValueError(_no_cifar_stem(layout, "torchvision"))
    return arch


def timm_name(source: Source, *, layout: str = "timm") -> tuple[str, dict[str, Any]]:
    """The name of a backbone in timm, and arguments of timm.create_model with num_classes.

    Raises:
        ValueError: timm has no such network.
    """
    arch = source.model.arch
    if arch in (*VITS, TINY) or arch.startswith("timm:"):
        found = recipe(source.model, source.crop_px)
        return found.name, found.arguments
    if source.model.stem == "cifar":
        raise ValueError(_no_cifar_stem(layout, "timm"))
    if arch not in _TORCHVISION:
        raise ValueError(f"timm has no {arch} under torchvision's names; use --to torchvision, onnx or safetensors")
    return arch, {"num_classes": 0}


def _plain(arch: str) -> str:
    """An architecture's name without what says whose it is, and which weights of it."""
    return arch.removeprefix("timm:").split(".")[0]


def _no_cifar_stem(layout: str, library: str) -> str:
    return (
        f"the layout {layout} has no ResNet with the cifar stem (3x3, no max-pool), as {library} has none; use --to onnx, or "
        "--to safetensors, whose metadata holds Python lines that build the network (recipe)"
    )
