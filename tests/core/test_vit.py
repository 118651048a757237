"""The ViT of MoCo v3: Chen et al. 2021, arXiv:2104.02057, Sec. 4 to 6."""

from __future__ import annotations

import math

import pytest
import timm
import torch

from moco_ray.config.model import VITS, ModelConfig
from moco_ray.core.encoders import build_backbone, feature_dim
from moco_ray.core.vit import build_vit, sincos_positions


@pytest.mark.parametrize(("name", "dim", "depth", "heads"), [("vit_small", 384, 12, 12), ("vit_base", 768, 12, 12)])
def test_sizes_are_the_papers(name: str, dim: int, depth: int, heads: int) -> None:
    vit = build_backbone(ModelConfig(arch=name), 224)
    assert (vit.embed_dim, len(vit.blocks), vit.blocks[0].attn.num_heads) == (dim, depth, heads)
    assert feature_dim(vit) == dim
    assert vit.patch_embed.proj.kernel_size == (16, 16) and vit.pos_embed.shape == (1, 197, dim)


@pytest.mark.parametrize("name", VITS)
def test_every_name_of_the_configuration_is_built(name: str) -> None:
    assert feature_dim(build_backbone(ModelConfig(arch=name, patch_px=16), 32)) % 4 == 0


def test_keys_and_function_are_timms() -> None:
    ours = build_vit("vit_small", patch_px=16, image_px=224).eval()
    theirs = timm.create_model("vit_small_patch16_224", num_classes=0, num_heads=12).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 224, 224)
    torch.testing.assert_close(ours(x), theirs(x))


def test_positions_and_patch_projection_are_fixed() -> None:
    vit = build_vit("vit_mini", patch_px=4, image_px=32)
    frozen = {name for name, p in vit.named_parameters() if not p.requires_grad}
    assert frozen == {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    trained = build_vit("vit_mini", patch_px=4, image_px=32, trains_patches=True)
    assert {name for name, p in trained.named_parameters() if not p.requires_grad} == {"pos_embed"}


def test_positions_are_sines_and_cosines_of_column_and_row() -> None:
    code = sincos_positions(3, 8)[0]
    assert code.shape == (10, 8) and (code[0] == 0).all()
    for row in range(3):
        for column in range(3):
            slow = 10000.0**-0.5
            expected = [f(place * w) for place in (column, row) for f in (math.sin, math.cos) for w in (1.0, slow)]
            assert code[1 + 3 * row + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_weights_are_drawn_by_xaviers_rule_each_of_query_key_and_value_apart() -> None:
    torch.manual_seed(0)
    vit = build_vit("vit_small", patch_px=16, image_px=32)
    for linear, fan_in, fan_out in (
        (vit.blocks[3].attn.qkv, 384, 384),
        (vit.blocks[3].mlp.fc1, 384, 1536),
        (vit.blocks[3].attn.proj, 384, 384),
    ):
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert linear.weight.abs().max() <= bound and linear.weight.abs().max() > 0.99 * bound
        assert (linear.bias == 0).all()
    patches = vit.patch_embed.proj.weight
    bound = math.sqrt(6 / (3 * 16 * 16 + 384))
    assert 0.99 * bound < patches.abs().max() <= bound


def test_images_of_another_size_get_interpolated_positions() -> None:
    vit = build_vit("vit_mini", patch_px=4, image_px=32).eval()
    assert vit(torch.randn(2, 3, 64, 64)).shape == (2, 192)


def test_crops_that_patches_do_not_fill_are_refused() -> None:
    with pytest.raises(ValueError, match=r"views.crop-px 30 is not a multiple of model.patch-px 4; use crops of 28"):
        build_vit("vit_mini", patch_px=4, image_px=30)
