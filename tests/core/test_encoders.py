from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn
from torchvision.transforms.v2 import functional as transforms

from moco_ray.config.model import ModelConfig
from moco_ray.core.encoders import (
    build_backbone,
    build_encoder,
    build_projector,
    feature_dim,
    key_encoder_of,
    momentum_update,
    normalize,
    standardize_at_once,
)
from tests.core.tiny import MEAN, STD, TinyResNet, tiny_encoder


@pytest.mark.parametrize(
    ("arch", "width"),
    [
        ("resnet18", 512),
        ("resnet50", 2048),
        ("tiny_resnet", 96),
        ("timm:resnet10t", 512),
        ("timm:mobilenetv3_small_050", 1024),  # timm's num_features says 288
        ("timm:vit_tiny_patch16_224", 192),
    ],
)
def test_feature_width_is_that_of_the_output(arch: str, width: int) -> None:
    backbone = build_backbone(ModelConfig(arch=arch)).eval()
    size_px = 224 if "vit" in arch else 64
    assert feature_dim(backbone) == width
    assert backbone(torch.zeros(1, 3, size_px, size_px)).shape == (1, width)


def test_resnet_keys_are_those_of_torchvision() -> None:
    ours, theirs = build_backbone(ModelConfig(arch="resnet18")).state_dict(), torchvision.models.resnet18().state_dict()
    assert list(ours) == [key for key in theirs if not key.startswith("fc.")]


def test_cifar_stem_keeps_the_resolution() -> None:
    backbone = build_backbone(ModelConfig(arch="resnet18", stem="cifar")).eval()
    shapes = []
    backbone.layer1.register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape))
    assert backbone(torch.zeros(1, 3, 32, 32)).shape == (1, 512)
    assert shapes == [(1, 64, 32, 32)]


def test_encoders_of_v1_and_v2() -> None:
    v1, v2 = (build_encoder(ModelConfig(arch="resnet18", projector=kind)) for kind in ("linear", "mlp"))
    assert [(m.in_features, m.out_features) for m in v1.projector.modules() if isinstance(m, nn.Linear)] == [(512, 128)]
    linears = [m for m in v2.projector.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(512, 512), (512, 128)]
    assert [type(m) for m in v2.projector] == [nn.Linear, nn.ReLU, nn.Linear]
    assert all(m.bias is not None for m in [v1.projector, *linears])
    assert v2.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 128)


def test_unknown_architectures_are_errors_that_name_what_exists() -> None:
    with pytest.raises(
        ValueError,
        match=r"model.arch 'resnet51' is no torchvision ResNet; use one of .*resnet50.*tiny_resnet, or timm:",
    ):
        build_backbone(ModelConfig(arch="resnet51"))
    with pytest.raises(ValueError, match=r"timm:resnet51_x is unknown to timm .*"):
        build_backbone(ModelConfig(arch="timm:resnet51_x"))
    with pytest.raises(ValueError, match=r"timm:convnext_atoo is unknown to timm .*did you mean timm:convnext"):
        build_backbone(ModelConfig(arch="timm:convnext_atoo"))
    with pytest.raises(ValueError, match=r"model.stem 'cifar' is for torchvision ResNets; drop it for timm:resnet10t"):
        build_backbone(ModelConfig(arch="timm:resnet10t", stem="cifar"))
    with pytest.raises(ValueError, match=r"model.stem 'cifar' is for torchvision ResNets; drop it for tiny_resnet"):
        build_backbone(ModelConfig(arch="tiny_resnet", stem="cifar"))


def test_key_encoder_copies_buffers_too_and_needs_no_gradient() -> None:
    query = TinyResNet()
    query.bn1.running_mean.fill_(3.0)
    key = key_encoder_of(query)
    assert torch.equal(key.bn1.running_mean, query.bn1.running_mean)
    assert not any(p.requires_grad for p in key.parameters()) and all(p.requires_grad for p in query.parameters())


def test_momentum_update_moves_parameters_only() -> None:
    query = tiny_encoder()
    key = key_encoder_of(query)
    for p in query.parameters():
        p.data.add_(torch.randn_like(p))
    for buffer in query.buffers():
        buffer.add_(7)
    before, query_before = copy.deepcopy(key.state_dict()), copy.deepcopy(query.state_dict())
    momentum_update(key, query, 0.75)
    names = {name for name, _ in key.named_parameters()}
    for name, tensor in key.state_dict().items():
        expected = 0.75 * before[name] + 0.25 * query_before[name] if name in names else before[name]
        torch.testing.assert_close(tensor, expected)
        assert torch.equal(query.state_dict()[name], query_before[name])


def test_normalize_equals_torchvision() -> None:
    images = torch.randint(0, 256, (2, 5, 7, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    before = images.clone()
    ours = normalize(images, torch.tensor(MEAN), torch.tensor(STD))
    nchw = transforms.to_dtype(images.permute(0, 3, 1, 2), torch.float32, scale=True)
    torch.testing.assert_close(ours, transforms.normalize(nchw, list(MEAN), list(STD)))
    assert ours.shape == (2, 3, 5, 7) and ours.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_one_pass_over_memory_standardises_like_several(dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (3, 5, 7, 3), dtype=torch.uint8)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    mean, std = torch.tensor(MEAN, dtype=wide), torch.tensor(STD, dtype=wide)
    expected = normalize(images, mean, std, dtype)
    ours = standardize_at_once(images, mean * 255, std * 255, dtype).permute(0, 3, 1, 2)
    assert ours.dtype == expected.dtype == dtype
    assert expected.is_contiguous(memory_format=torch.channels_last)
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


def test_normalize_computes_in_the_dtype_of_the_mean() -> None:
    images = torch.full((1, 1, 1, 3), 255, dtype=torch.uint8)
    ours = normalize(images, torch.tensor(MEAN).double(), torch.tensor(STD).double())
    assert ours.dtype == torch.float64


def test_every_projector_ends_in_the_asked_width() -> None:
    for kind in ("linear", "mlp"):
        assert build_projector(ModelConfig(projector=kind, dim=5), 12)(torch.zeros(3, 12)).shape == (3, 5)


@pytest.mark.parametrize(
    ("arch", "meant"),
    [
        ("resnet-50", "resnet50"),
        ("ResNet18", "resnet18"),
        ("vit-small", "vit_small"),
        ("tinyresnet", "tiny_resnet"),
        ("timm:resnet19", "timm:resnet18"),
        ("timm:convnext_atoo", "timm:convnext_atto"),
        ("timm:vit_tiny_patch16", "timm:vit_tiny_patch16_224"),
    ],
)
def test_an_unknown_architecture_is_answered_with_the_nearest_names(arch: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"did you mean [^;?]*{meant}\b"):
        build_backbone(ModelConfig(arch=arch))
