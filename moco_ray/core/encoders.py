"""Query and key encoders: a backbone and a projector."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import cast

import torch
from torch import Tensor, nn

from moco_ray.config.model import TINY, VITS, ModelConfig
from moco_ray.core.heads import bn_mlp
from moco_ray.core.timm_backbones import build_timm_backbone
from moco_ray.core.tiny_resnet import TinyResNet
from moco_ray.core.vit import build_vit


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


def build_encoder(config: ModelConfig, image_px: int = 224) -> Encoder:
    """Build an encoder with fresh weights, drawn from torch's global generator; plain BatchNorm inside.

    Args:
        config: What to build.
        image_px: Side of the images (views.crop_px), which Transformers are built for.

    Raises:
        ValueError: The architecture is unknown, or the images do not fit it.
    """
    backbone = build_backbone(config, image_px)
    return Encoder(backbone, build_projector(config, feature_dim(backbone)), config.dim)


def build_backbone(config: ModelConfig, image_px: int = 224) -> nn.Module:
    """Build a backbone that returns pooled features (N, feature_dim), keys as in torchvision or timm.

    Args:
        config: Its arch, and what belongs to that.
        image_px: Side of the images, which Transformers are built for.

    Raises:
        ValueError: The architecture is unknown, or the cifar stem is asked of something that is no ResNet.
    """
    if config.stem != "imagenet" and (config.arch in (*VITS, TINY) or config.arch.startswith("timm:")):
        raise ValueError(f"model.stem {config.stem!r} is for torchvision ResNets; drop it for {config.arch}")
    if config.arch in VITS:
        return build_vit(config.arch, patch_px=config.patch_px, image_px=image_px, trains_patches=config.train_patches)
    if config.arch.startswith("timm:"):
        return build_timm_backbone(config.arch.removeprefix("timm:"), image_px)
    if config.arch == TINY:
        return TinyResNet()
    return _build_resnet(config)


def _build_resnet(config: ModelConfig) -> nn.Module:
    import torchvision  # here, because it takes a second to import

    names = sorted(name for name in torchvision.models.list_models() if name.startswith(("resnet", "wide_resnet")))
    if config.arch not in names:
        close = get_close_matches(re.sub("[-_ ]", "", config.arch.lower()), [*names, *VITS, TINY], n=3)
        meant = f"; did you mean {' or '.join(close)}" if close else ""
        raise ValueError(
            f"model.arch {config.arch!r} is no torchvision ResNet; use one of {', '.join([*names, *VITS, TINY])}, or "
            f"timm:NAME{meant}"
        )
    backbone = torchvision.models.get_model(config.arch, weights=None, zero_init_residual=config.zero_init_residual)
    backbone.fc = nn.Identity()
    if config.stem == "cifar":
        backbone.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
        backbone.maxpool = nn.Identity()
    return cast(nn.Module, backbone)


def feature_dim(backbone: nn.Module) -> int:
    """Width of a backbone's features."""
    if hasattr(backbone, "num_features"):  # timm; some of its models widen the pooled features once more
        return int(cast(int, getattr(backbone, "head_hidden_size", None) or backbone.num_features))
    block = list(cast(nn.Sequential, backbone.layer4))[-1]
    last_convolution = [m for m in block.modules() if isinstance(m, nn.Conv2d)][-1]
    return last_convolution.out_channels


def build_projector(config: ModelConfig, features: int) -> nn.Module:
    """Build v1's linear projector, v2's MLP (biases, no BatchNorm; arXiv:2003.04297, Sec. 3) or v3's."""
    if config.projector == "linear":
        return nn.Linear(features, config.dim)
    hidden = config.hidden_dim or features
    if config.projector == "mlp-bn":
        return bn_mlp(features, hidden, config.dim, num_layers=config.projector_layers, last_bn=True)
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, config.dim))


def key_encoder_of(query_encoder: Encoder) -> Encoder:
    """Copy the query encoder, heads and buffers included, without gradients (arXiv:1911.05722, Sec. 3.3)."""
    key_encoder = copy.deepcopy(query_encoder)
    key_encoder.requires_grad_(False)
    return key_encoder


@torch.no_grad()
def momentum_update(key_encoder: nn.Module, query_encoder: nn.Module, momentum: float) -> None:
    """Move the key encoder's parameters: k <- m k + (1 - m) q (arXiv:1911.05722, Eq. 2).

    Parameters that learn only: BatchNorm buffers of the key encoder evolve in its own forward passes, and frozen
    parameters stay bitwise what they are.
    """
    pairs = zip(key_encoder.parameters(), query_encoder.parameters(), strict=True)
    learned = [(k, q) for k, q in pairs if q.requires_grad]
    keys: list[Tensor] = [k for k, _ in learned]
    queries: list[Tensor] = [q for _, q in learned]
    torch._foreach_lerp_(keys, queries, 1.0 - momentum)  # one pass over memory


def normalize(images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Standardise uint8 images on their device.

    Args:
        images: (N, H, W, 3) uint8.
        mean: (3,) of the training dtype, in 0..1.
        std: (3,) of the training dtype, in 0..1.
        dtype: Of the result; None: that of mean.

    Returns:
        (N, 3, H, W), channels-last in memory.
    """
    dtype = dtype or mean.dtype
    standardized = standardize_at_once if images.is_cuda else _standardize
    return standardized(images, mean * 255, std * 255, dtype).permute(0, 3, 1, 2)


def standardize_at_once(images: Tensor, center: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Standardise (N, H, W, 3) in one pass over memory, into any dtype; (3,) center and scale in 0..255."""
    return torch.addcmul(-center / scale, images, 1 / scale, out=torch.empty_like(images, dtype=dtype))


def _standardize(images: Tensor, center: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The same on a CPU, which is slow where vectors are three numbers long, and fast on whole rows."""
    width = images.shape[2]
    rows = images.to(center.dtype).flatten(2).sub_(center.repeat(width)).div_(scale.repeat(width))
    return rows.view(images.shape).to(dtype)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors and their names."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashed.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()
