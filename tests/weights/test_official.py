"""Files of other programs start a pretraining: MoCo's authors' with their projectors, torchvision's and timm's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from moco_ray.config.model import ModelConfig
from moco_ray.core.encoders import build_encoder
from moco_ray.weights.initial_weights import load_initial_weights
from moco_ray.weights.origin import origin_of
from tests.weights.test_encoder_file import assert_same_weights

Tensors = dict[str, Tensor]


def resnet18(head: nn.Module, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = torchvision.models.resnet18()
    network.fc = head
    return network


def vit_small(head: nn.Module, seed: int) -> nn.Module:
    """A ViT-S/16 as MoCo v3's authors built it: 12 heads, the projector in place of the classifier."""
    torch.manual_seed(seed)
    network: Any = timm.create_model("vit_small_patch16_224", num_heads=12)
    network.head = head
    return network


def v1_head() -> nn.Module:
    return nn.Linear(512, 128)


def v2_head() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))


def v3_head(features: int, num_layers: int) -> nn.Module:
    widths = [features, *[64] * (num_layers - 1), 32]
    layers: list[nn.Module] = []
    for i in range(num_layers):
        is_last = i == num_layers - 1
        layers += [nn.Linear(widths[i], widths[i + 1], bias=False), nn.BatchNorm1d(widths[i + 1], affine=not is_last)]
        layers += [] if is_last else [nn.ReLU()]
    return nn.Sequential(*layers)


def saved(arch: str, query: nn.Module, key: nn.Module, names: tuple[str, str], beside: Tensors) -> dict[str, Any]:
    """A checkpoint with the names that DistributedDataParallel gives, the key encoder first."""
    state = {f"module.{names[1]}.{name}": tensor for name, tensor in key.state_dict().items()}
    state |= {f"module.{names[0]}.{name}": tensor for name, tensor in query.state_dict().items()}
    state |= {f"module.{name}": tensor for name, tensor in beside.items()}
    optimizer = torch.optim.SGD(query.parameters(), lr=0.1)
    return {"epoch": 200, "arch": arch, "state_dict": state, "optimizer": optimizer.state_dict()}


QUEUE = {"queue": torch.zeros(128, 8), "queue_ptr": torch.zeros(1, dtype=torch.long)}
PREDICTOR = {"predictor.0.weight": torch.ones(64, 32), "predictor.1.running_mean": torch.ones(64)}
OLD, NEW = ("encoder_q", "encoder_k"), ("base_encoder", "momentum_encoder")

CASES: dict[str, Any] = {
    "v1": (lambda seed: resnet18(v1_head(), seed), "resnet18", OLD, QUEUE),
    "v2": (lambda seed: resnet18(v2_head(), seed), "resnet18", OLD, QUEUE),
    "v3 resnet": (lambda seed: resnet18(v3_head(512, 2), seed), "resnet18", NEW, PREDICTOR),
    "v3 vit": (lambda seed: vit_small(v3_head(384, 3), seed), "vit_small", NEW, PREDICTOR),
}


@pytest.mark.parametrize("case", CASES)
def test_mocos_own_checkpoints_give_query_encoder_and_projector(case: str, tmp_path: Path) -> None:
    make, arch, names, beside = CASES[case]
    query = make(1)
    torch.save(saved(arch, query, make(2), names, beside), tmp_path / "official.pth.tar")
    origin = origin_of(str(tmp_path / "official.pth.tar"))
    assert origin is not None and origin.model.arch == arch
    encoder = build_encoder(origin.model, 224)  # with the projector that the file tells of
    said = load_initial_weights(encoder, str(tmp_path / "official.pth.tar"))
    assert "fresh" not in said and f"under state_dict.module.{names[0]}" in said
    head = query.head if arch.startswith("vit") else query.fc
    assert_same_weights(encoder.projector, head.state_dict())
    assert all(torch.equal(tensor, query.state_dict()[name]) for name, tensor in encoder.backbone.state_dict().items())
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.eval()(images), query.eval()(images))


@pytest.mark.parametrize(("projector", "dim"), [("linear", 128), ("mlp", 64), ("mlp-bn", 128)])
def test_a_projector_that_does_not_fit_starts_fresh(projector: Any, dim: int, tmp_path: Path) -> None:
    make, arch, names, beside = CASES["v2"]
    torch.save(saved(arch, make(1), make(2), names, beside), tmp_path / "official.pth.tar")
    encoder = build_encoder(ModelConfig(arch=arch, projector=projector, dim=dim))
    before = {name: tensor.clone() for name, tensor in encoder.projector.state_dict().items()}
    assert "the projector starts fresh" in load_initial_weights(encoder, str(tmp_path / "official.pth.tar"))
    assert_same_weights(encoder.projector, before)


def test_a_classifier_is_no_projector_even_where_it_fits(tmp_path: Path) -> None:
    torch.save(resnet18(nn.Linear(512, 10), 1).state_dict(), tmp_path / "classes.pth")
    encoder = build_encoder(ModelConfig(arch="resnet18", projector="linear", dim=10))
    assert "the projector starts fresh" in load_initial_weights(encoder, str(tmp_path / "classes.pth"))


def test_a_folder_for_the_hub_is_no_run_without_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"name the file, .*/model\.safetensors"):
        load_initial_weights(build_encoder(ModelConfig(arch="tiny_resnet"), 32), str(tmp_path))
