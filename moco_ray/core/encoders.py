"""Query and key encoders: a backbone and a projector."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torchvision
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What is trained. Defaults are MoCo v2's (He et al. 2020, arXiv:2003.04297)."""

    arch: str = "resnet50"
    """Backbone: a torchvision ResNet by name, or any timm model as timm:NAME."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """First layers of a ResNet: "imagenet" (7x7 stride 2, max-pool) or "cifar" (3x3 stride 1, none)."""
    projector: Literal["linear", "mlp"] = "mlp"
    """Head on the features: "linear" (v1) or "mlp" (v2: one hidden layer as wide as the features, ReLU)."""
    dim: int = 128
    """Width of the embedding."""
    init: str | None = None
    """File of initial weights: an encoder.safetensors, a full encoder or a torchvision state dict."""


class Encoder(nn.Module):
    """A backbone followed by a projector.

    Attributes:
        backbone: images (N, 3, H, W) -> features (N, feature_dim).
        projector: features (N, feature_dim) -> projections (N, dim), not normalised.
        dim: Width of the projection.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.dim = dim

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to projections (N, dim), not normalised."""
        return cast(Tensor, self.projector(self.backbone(images)))


def build_encoder(config: ModelConfig) -> Encoder:
    """Build an encoder with fresh weights, drawn from torch's global generator; plain BatchNorm inside.

    Raises:
        ValueError: The architecture is unknown.
    """
    backbone = build_backbone(config.arch, config.stem)
    projector = build_projector(config.projector, feature_dim(backbone), config.dim)
    return Encoder(backbone, projector, config.dim)


def build_backbone(arch: str, stem: str = "imagenet") -> nn.Module:
    """Build a backbone that returns pooled features (N, feature_dim), keys as in torchvision or timm.

    Raises:
        ValueError: The architecture is unknown, or the cifar stem is asked of something that is no ResNet.
    """
    if arch.startswith("timm:"):
        return _build_timm_backbone(arch.removeprefix("timm:"), stem)
    names = sorted(name for name in torchvision.models.list_models() if name.startswith(("resnet", "wide_resnet")))
    if arch not in names:
        raise ValueError(f"model.arch {arch!r} is no torchvision ResNet; use one of {', '.join(names)}, or timm:NAME")
    backbone = torchvision.models.get_model(arch, weights=None)
    backbone.fc = nn.Identity()
    if stem == "cifar":
        backbone.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
        backbone.maxpool = nn.Identity()
    return cast(nn.Module, backbone)


def _build_timm_backbone(name: str, stem: str) -> nn.Module:
    import timm  # here, because it takes seconds to import and most runs do not use it

    if stem != "imagenet":
        raise ValueError(f"model.stem {stem!r} is for torchvision ResNets; drop it for timm:{name}")
    if name.split(".")[0] not in timm.list_models():
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ValueError(
            f"model.arch timm:{name} is unknown to timm {timm.__version__}"
            + (f"; did you mean timm:{', timm:'.join(close)}" if close else "")
        )
    return timm.create_model(name, pretrained=False, num_classes=0)


def feature_dim(backbone: nn.Module) -> int:
    """Width of a backbone's features."""
    if hasattr(backbone, "num_features"):  # timm; some of its models widen the pooled features once more
        return int(cast(int, getattr(backbone, "head_hidden_size", None) or backbone.num_features))
    block = list(cast(nn.Sequential, backbone.layer4))[-1]
    last_convolution = [m for m in block.modules() if isinstance(m, nn.Conv2d)][-1]
    return last_convolution.out_channels


def build_projector(kind: str, features: int, dim: int) -> nn.Module:
    """Build v1's linear or v2's MLP projector, with biases and without BatchNorm (arXiv:2003.04297, Sec. 3)."""
    if kind == "linear":
        return nn.Linear(features, dim)
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, dim))


def key_encoder_of(query_encoder: nn.Module) -> nn.Module:
    """Copy the query encoder, heads and buffers included, without gradients (arXiv:1911.05722, Sec. 3.3)."""
    key_encoder = copy.deepcopy(query_encoder)
    key_encoder.requires_grad_(False)
    return key_encoder


@torch.no_grad()
def momentum_update(key_encoder: nn.Module, query_encoder: nn.Module, momentum: float) -> None:
    """Move the key encoder's parameters: k <- m k + (1 - m) q (arXiv:1911.05722, Eq. 2).

    Parameters only: BatchNorm buffers of the key encoder evolve in its own forward passes.
    """
    keys: list[Tensor] = list(key_encoder.parameters())
    queries: list[Tensor] = [p.detach() for p in query_encoder.parameters()]
    torch._foreach_mul_(keys, momentum)
    torch._foreach_add_(keys, queries, alpha=1.0 - momentum)


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Standardise uint8 images on their device.

    Args:
        images: (N, H, W, 3) uint8.
        mean: (3,) of the training dtype, in 0..1.
        std: (3,) of the training dtype, in 0..1.

    Returns:
        (N, 3, H, W) in the dtype of mean, channels-last in memory on CUDA, contiguous elsewhere.
    """
    scaled = images.to(mean.dtype).sub_(mean * 255).div_(std * 255)  # (N, H, W, 3)
    nchw = scaled.permute(0, 3, 1, 2)
    return nchw if images.is_cuda else nchw.contiguous()
