"""Whether networks take the crops: the verdict without weights is that of a real forward pass."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from moco_ray.config.model import ModelConfig
from moco_ray.core import timm_backbones
from moco_ray.core.crops import build_without_weights
from moco_ray.core.encoders import Encoder, build_backbone, build_encoder

FIXED_SIZE = ["test_vit3", "test_coatnet", "test_maxvit", "levit_128s", "swin_tiny_patch4_window7_224", "convit_tiny"]


def takes(encoder: Encoder, px: int, num_images: int) -> bool:
    """Whether a real forward pass in training succeeds."""
    try:
        with torch.no_grad():
            encoder.train()(torch.zeros(num_images, 3, px, px))
    except Exception:
        return False
    return True


@pytest.mark.parametrize("name", FIXED_SIZE)
def test_models_of_a_fixed_size_are_built_for_the_crops(name: str) -> None:
    model = ModelConfig(arch=f"timm:{name}", dim=8)
    build_without_weights(model, 32, num_images=2)
    assert takes(build_encoder(model, 32), 32, 2)


@pytest.mark.parametrize(
    ("arch", "px"),
    [
        ("timm:vit_tiny_patch16_224", 224),
        ("timm:test_vit", 32),
        ("timm:test_resnet", 40),
        ("timm:test_efficientnet", 64),
    ],
)
def test_models_that_take_the_crops_as_they_are_stay_as_they_are(arch: str, px: int) -> None:
    torch.manual_seed(0)
    ours = build_backbone(ModelConfig(arch=arch), px).state_dict()
    torch.manual_seed(0)
    theirs = timm.create_model(arch.removeprefix("timm:"), num_classes=0).state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("arch", "px", "num_images", "message"),
    [
        ("timm:test_convnext", 16, 4, r"Kernel size can't be greater.*use --views\.crop-px 32 or another model\.arch$"),
        ("timm:test_vit3", 40, 4, r"views\.crop-px 40 \(.*use --views\.crop-px (32|48) or"),
        ("timm:test_coatnet", 16, 4, r"use --views\.crop-px \d+ or"),
        ("timm:mixer_s32_224", 40, 4, r"use --views\.crop-px (32|64) or"),
        pytest.param("timm:inception_v3", 32, 4, r"use --views\.crop-px \d+ or", marks=pytest.mark.slow),
        pytest.param("timm:efficientformer_l1", 160, 4, r"use --views\.crop-px (196|224) or", marks=pytest.mark.slow),
        ("timm:test_efficientnet", 16, 1, r"more than 1 value.*use --views\.crop-px \d+, fewer optim\.bn-groups or"),
        ("resnet18", 32, 1, r"more than 1 value.*use --views\.crop-px \d+, fewer optim\.bn-groups or"),
    ],
)
def test_what_cannot_take_the_crops_is_refused_with_a_size_that_fits(
    arch: str, px: int, num_images: int, message: str
) -> None:
    model = ModelConfig(arch=arch, dim=8)
    with pytest.raises(ValueError, match=message) as raised:
        build_without_weights(model, px, num_images=num_images)
    assert f"model.arch {arch} " in str(raised.value) and "\n" not in str(raised.value)
    assert (
        not takes(build_encoder(model, px), px, num_images) or "timm:vit" in arch
    )  # whose last pixels would be dropped
    if "--views.crop-px " in str(raised.value):
        fitting = int(str(raised.value).split("--views.crop-px ")[1].split()[0].rstrip(","))
        assert takes(build_encoder(model, fitting), fitting, num_images)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_coatnet", "test_vit3"]
)
@pytest.mark.parametrize("px", [8, 48, 160])
def test_the_verdict_without_weights_is_that_of_a_real_pass(name: str, px: int) -> None:
    model = ModelConfig(arch=f"timm:{name}", dim=8)
    try:
        build_without_weights(model, px, num_images=2)
        verdict = True
    except ValueError:
        verdict = False
    assert verdict == takes(build_encoder(model, px), px, 2)


def test_nothing_is_drawn_from_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    build_without_weights(ModelConfig(arch="timm:test_vit3"), 48, num_images=2)
    assert torch.equal(torch.get_rng_state(), before)


class Odd(nn.Module):
    """A network that returns something else than features."""

    num_features = 4

    def __init__(self, output: str) -> None:
        super().__init__()
        self.output, self.weight = output, nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> object:
        features = images.new_zeros(len(images), 4)
        if self.output == "number":
            assert float(self.weight.sum()) == 0  # there are no numbers on the meta device
        outputs = {"dict": {"x": features}, "map": features[:, :, None, None], "width": features[:, :3]}
        return outputs.get(self.output, features)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("dict", "returns a dict, and no tensor of features"),
        ("map", r"returns a tensor \(2, 4, 1, 1\) for 2 images"),
        ("width", "says that its features have 4 numbers, and returns 3"),
    ],
)
def test_what_returns_no_features_is_refused(output: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(timm.models._registry._model_entrypoints, "odd", lambda **_: Odd(output))
    monkeypatch.setattr(timm, "list_models", lambda *_: ["odd"])
    timm_backbones.timm_arguments.cache_clear()
    with pytest.raises(ValueError, match=f"model.arch timm:odd {message}.*use another model.arch"):
        build_without_weights(ModelConfig(arch="timm:odd"), 32, num_images=2)


def test_a_network_that_needs_numbers_gets_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(timm.models._registry._model_entrypoints, "odd", lambda **_: Odd("number"))
    monkeypatch.setattr(timm, "list_models", lambda *_: ["odd"])
    timm_backbones.timm_arguments.cache_clear()
    build_without_weights(ModelConfig(arch="timm:odd"), 32, num_images=2)


def test_v3s_transformers_normalise_with_its_epsilon() -> None:
    vit = build_backbone(ModelConfig(arch="vit_mini", patch_px=8), 32)
    assert {module.eps for module in vit.modules() if isinstance(module, nn.LayerNorm)} == {1e-6}
