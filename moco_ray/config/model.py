"""The network of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

VITS = ("vit_mini", "vit_small", "vit_base")
"""MoCo v3's Vision Transformers, and one of ours for images of 32 to 64 px."""
TINY = "tiny_resnet"
"""timm's test_resnet, built without timm."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What is trained. Defaults are MoCo v2's (Chen et al. 2020, arXiv:2003.04297)."""

    arch: str = "resnet50"
    """Backbone: a torchvision ResNet by name, MoCo v3's vit_small, vit_base or a vit_mini, any timm model as timm:NAME,
    or tiny_resnet for small images and quick tries."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """First layers of a ResNet: "imagenet" (7x7 stride 2, max-pool) or "cifar" (3x3 stride 1, none)."""
    patch_px: int = 16
    """Side of the patches of a vit_mini, vit_small or vit_base, in pixels; views.crop_px is a multiple of it."""
    train_patches: bool = False
    """Whether such a ViT's patch projection learns; frozen in v3, for stable training (arXiv:2104.02057, Sec. 4.3)."""
    zero_init_residual: bool = False
    """Whether each residual branch of a torchvision ResNet starts at zero (v3)."""
    projector: Literal["linear", "mlp", "mlp-bn"] = "mlp"
    """Head on the features: "linear" (v1), "mlp" (v2: one hidden layer, ReLU) or "mlp-bn" (v3: no biases, BatchNorm
    after every layer)."""
    projector_layers: int = 2
    """Linear layers of an "mlp-bn" projector (v3: 2 for a ResNet-50, 3 for a ViT)."""
    hidden_dim: int | None = None
    """Width of the hidden layers of the heads (v3: 4096). None: that of the features (v2)."""
    dim: int = 128
    """Width of the embedding."""
    init: str | None = None
    """Initial weights: an encoder.safetensors, the folder of a run or of a checkpoint, or weights of the same backbone
    that another program has saved, under whatever prefix."""
