"""Vision Transformers as MoCo v3 trains them (Chen et al. 2021, arXiv:2104.02057, Sec. 4): timm's, with fixed parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class _Size:
    dim: int
    depth: int
    num_heads: int


# ViT-S has 12 heads in MoCo v3 (arXiv:2104.02057, Sec. 6), not timm's 6; "vit_mini" is ours, for images of 32 to 64 px.
_SIZES = {
    "vit_mini": _Size(dim=192, depth=6, num_heads=6),
    "vit_small": _Size(dim=384, depth=12, num_heads=12),
    "vit_base": _Size(dim=768, depth=12, num_heads=12),
}


def build_vit(name: str, *, patch_px: int, image_px: int, trains_patches: bool = False) -> nn.Module:
    """Build one of `VITS`: images (N, 3, H, W) -> the class token after the last norm, (N, dim); keys as in timm.

    Positions are a fixed 2-D sine-cosine code, the patch projection stays as it was drawn (frozen: "random patch
    projection", Sec. 4.3), and linear layers are drawn by Xavier's rule, query, key and value each as its own.
    Weights come from torch's global generator.

    Args:
        name: One of `VITS`.
        patch_px: Side of a patch.
        image_px: Side of the images that it is built for; other multiples of patch_px work, with positions
            interpolated.
        trains_patches: Whether the patch projection learns.

    Raises:
        ValueError: Patches do not fill the image.
    """
    from timm.models.vision_transformer import VisionTransformer  # here, because timm takes seconds to import

    if image_px % patch_px:
        raise ValueError(
            f"views.crop-px {image_px} is not a multiple of model.patch-px {patch_px}; use crops of "
            f"{max(1, image_px // patch_px) * patch_px} or other patches"
        )
    size = _SIZES[name]
    vit = VisionTransformer(
        img_size=image_px,
        patch_size=patch_px,
        embed_dim=size.dim,
        depth=size.depth,
        num_heads=size.num_heads,
        num_classes=0,
        global_pool="token",
        dynamic_img_size=True,
        weight_init="skip",
    )
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            _xavier(module)
    patches = vit.patch_embed.proj
    nn.init.xavier_uniform_(patches.weight.data.flatten(1))  # as the linear layer that it is
    nn.init.zeros_(patches.bias)
    assert vit.cls_token is not None and vit.pos_embed is not None
    nn.init.normal_(vit.cls_token, std=1e-6)
    with torch.no_grad():
        vit.pos_embed.copy_(sincos_positions(image_px // patch_px, size.dim))
    vit.pos_embed.requires_grad_(False)
    patches.requires_grad_(trains_patches)
    return vit


def timm_vit(name: str, *, patch_px: int, image_px: int) -> tuple[str, dict[str, int | bool]]:
    """The same architecture in timm: a name, and arguments of timm.create_model."""
    size = _SIZES[name]
    base = name if name != "vit_mini" else "vit_tiny"
    arguments: dict[str, int | bool] = {"num_heads": size.num_heads}  # timm's ViT-S has 6
    arguments |= {"embed_dim": size.dim, "depth": size.depth} if name == "vit_mini" else {}
    arguments |= {"patch_size": patch_px} if patch_px != 16 else {}
    arguments |= {"img_size": image_px} if image_px != 224 else {}
    return f"{base}_patch16_224", {**arguments, "dynamic_img_size": True, "num_classes": 0}


def sincos_positions(side: int, dim: int) -> Tensor:
    """Fixed 2-D sine-cosine code of a square of patches (arXiv:2104.02057, Sec. 4; Vaswani et al. 2017, Sec. 3.5).

    Args:
        side: Patches in a row.
        dim: Width of the code, a multiple of 4: sine and cosine of the column, then of the row.

    Returns:
        (1, 1 + side * side, dim): zeros for the class token, then row after row.
    """
    assert dim % 4 == 0
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))  # (dim / 4,)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies  # (side, dim / 4)
    column, row = angles.repeat(side, 1), angles.repeat_interleave(side, dim=0)  # (side * side, dim / 4)
    code = torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1)
    return torch.cat([code.new_zeros(1, dim), code])[None].float()


def _xavier(linear: nn.Linear) -> None:
    """Draw the weights of a linear layer; timm's qkv are three layers in one."""
    num_parts = 3 if linear.out_features == 3 * linear.in_features else 1
    for part in linear.weight.data.chunk(num_parts):
        nn.init.xavier_uniform_(part)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
