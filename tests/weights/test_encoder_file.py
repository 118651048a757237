from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moco_ray.config.model import ModelConfig
from moco_ray.core.encoders import Encoder, build_backbone, build_encoder
from moco_ray.core.group_batch_norm import use_group_batch_norm
from moco_ray.weights.encoder_file import encoder_bytes, encoder_info, load_encoder

METADATA = {"crop_px": "32", "mean": "[0.1, 0.2, 0.3]", "std": "[0.4, 0.5, 0.6]", "step": "7"}


def write(folder: Path, arch: str, stem: str = "imagenet") -> tuple[Path, nn.Module]:
    backbone = build_backbone(ModelConfig(arch=arch, stem=stem))
    path = folder / "encoder.safetensors"
    path.write_bytes(encoder_bytes(backbone, {"arch": arch, "stem": stem, **METADATA}))
    return path, backbone


def tiny_encoder(seed: int = 0, projector: str = "mlp") -> Encoder:
    torch.manual_seed(seed)
    return build_encoder(ModelConfig(arch="timm:test_resnet", projector=projector, dim=16))  # type: ignore[arg-type]


def assert_same_weights(actual: nn.Module, expected: dict[str, Tensor]) -> None:
    state = actual.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_file_fits_torchvision_but_for_the_classifier(arch: str, tmp_path: Path) -> None:
    path, backbone = write(tmp_path, arch)
    model = torchvision.models.get_model(arch)
    report = model.load_state_dict(load_file(path), strict=False)
    assert set(report.missing_keys) == {"fc.weight", "fc.bias"}
    assert report.unexpected_keys == []
    model.fc = nn.Identity()
    assert_same_weights(model, backbone.state_dict())


def test_file_fits_timm_but_for_the_classifier(tmp_path: Path) -> None:
    path, _ = write(tmp_path, "timm:test_vit")
    report = timm.create_model("test_vit").load_state_dict(load_file(path), strict=False)
    assert set(report.missing_keys) == {"head.weight", "head.bias"}
    assert report.unexpected_keys == []


@pytest.mark.parametrize(
    ("arch", "stem"), [("resnet18", "cifar"), ("timm:test_resnet", "imagenet"), ("tiny_resnet", "imagenet")]
)
def test_encoder_loads_as_it_was_written_in_evaluation_mode(arch: str, stem: str, tmp_path: Path) -> None:
    path, backbone = write(tmp_path, arch, stem)
    loaded = load_encoder(str(path))
    assert not loaded.training
    assert_same_weights(loaded, backbone.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(images), backbone.eval()(images))


def test_encoder_loads_from_the_folder_of_a_run(tmp_path: Path) -> None:
    _, backbone = write(tmp_path, "timm:test_resnet")
    assert_same_weights(load_encoder(str(tmp_path)), backbone.state_dict())
    assert encoder_info(f"{tmp_path}/")["arch"] == "timm:test_resnet"


def test_encoder_loads_from_a_url(tmp_path: Path) -> None:
    import fsspec

    path, backbone = write(tmp_path, "timm:test_resnet")
    fsspec.filesystem("memory").pipe_file("/bucket/run/encoder.safetensors", path.read_bytes())
    assert_same_weights(load_encoder("memory://bucket/run"), backbone.state_dict())


def test_info_returns_numbers_as_numbers(tmp_path: Path) -> None:
    path, _ = write(tmp_path, "resnet18", "cifar")
    info = encoder_info(str(path))
    assert info.pop("format").startswith("moco_ray")
    added = ("recipe", "library", "library_version", "library_name", "library_arguments", "numbers", "probe")
    found = {name: info.pop(name) for name in added}
    assert (found["library"], found["library_name"], found["library_arguments"]) == ("torchvision", "resnet18", {})
    assert found["numbers"]["batch_norm_eps"] == 1e-5 and found["numbers"]["pooling"] == "avg"
    assert len(found["probe"]) == 8
    assert info == {
        "arch": "resnet18",
        "stem": "cifar",
        "crop_px": 32,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "step": 7,
        "feature_dim": 512,
    }


@pytest.mark.parametrize(
    ("model", "crop_px"),
    [
        (ModelConfig(arch="vit_small"), 224),
        (ModelConfig(arch="vit_small", patch_px=8), 32),
        (ModelConfig(arch="vit_mini", patch_px=4), 32),
        (ModelConfig(arch="resnet18"), 64),
        (ModelConfig(arch="resnet18", stem="cifar"), 32),
        (ModelConfig(arch="timm:test_resnet"), 32),
        (ModelConfig(arch="tiny_resnet"), 32),
        (ModelConfig(arch="timm:vit_tiny_patch16_224"), 48),
    ],
)
def test_recipe_rebuilds_the_network_without_moco_ray_bit_for_bit(
    model: ModelConfig, crop_px: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(model, crop_px).eval()
    path = tmp_path / "encoder.safetensors"
    names = {"arch": model.arch, "stem": model.stem, "patch_px": str(model.patch_px)}
    path.write_bytes(encoder_bytes(backbone, {**METADATA, **names, "crop_px": str(crop_px)}))
    scope: dict[str, nn.Module] = {}
    exec(encoder_info(path)["recipe"], scope)
    rebuilt = scope["model"].eval()
    rebuilt.load_state_dict(load_file(path))
    images = torch.randn(2, 3, crop_px, crop_px)
    with torch.inference_mode():
        assert torch.equal(rebuilt(images), backbone(images))


def test_a_vit_small_says_that_it_has_twelve_heads(tmp_path: Path) -> None:
    path, _ = write(tmp_path, "vit_small")
    info = encoder_info(path)
    assert 'timm.create_model("vit_small_patch16_224", num_heads=12, ' in info["recipe"]
    numbers = {"num_heads": 12, "layer_norm_eps": 1e-6, "activations": ["GELU"], "pooling": "token"}
    assert numbers.items() <= info["numbers"].items()
    with safe_open(path, "pt") as file:  # as other tools see it
        assert "num_heads=12" in file.metadata()["recipe"]


def test_group_batch_norm_is_written_as_batch_norm(tmp_path: Path) -> None:
    plain = build_backbone(ModelConfig(arch="timm:test_resnet"))
    expected = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    wrapped = nn.ModuleDict({"backbone": plain})
    use_group_batch_norm(wrapped, 4)
    path = tmp_path / "encoder.safetensors"
    metadata = {"arch": "timm:test_resnet", "stem": "imagenet", **METADATA}
    path.write_bytes(encoder_bytes(wrapped["backbone"], metadata))
    assert_same_weights(load_encoder(str(path)), expected)


@pytest.mark.parametrize("content", [b"not found, and no page", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0[]"])
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "encoder.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="was not written by moco_ray"):
        load_encoder(str(tmp_path))


def test_foreign_safetensors_and_cut_files_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(ValueError, match="was not written by moco_ray"):
        encoder_info(str(foreign))
    path, _ = write(tmp_path, "timm:test_resnet")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="no complete safetensors file"):
        load_encoder(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"encoder\.safetensors.*no such file"):
        load_encoder(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("num_bytes", [0, 5, 300, 5_000, -1])
def test_a_file_cut_anywhere_is_said_to_be_cut(num_bytes: int, tmp_path: Path) -> None:
    path, _ = write(tmp_path, "timm:test_resnet")
    path.write_bytes(path.read_bytes()[:num_bytes])
    for read in (load_encoder, encoder_info):
        with pytest.raises(ValueError, match="it is empty" if num_bytes == 0 else "it is cut short"):
            read(path)


@pytest.mark.parametrize("name", ["enc.bin", "enc", "model.pt", "checkpoint_7"])
def test_an_encoder_file_may_have_any_name(name: str, tmp_path: Path) -> None:
    path, backbone = write(tmp_path, "timm:test_resnet")
    assert_same_weights(load_encoder(path.rename(tmp_path / name)), backbone.state_dict())


@pytest.mark.parametrize("inside", ["run/encoder.safetensors", "run"])
def test_an_encoder_loads_from_an_archive(inside: str, tmp_path: Path) -> None:
    path, backbone = write(tmp_path, "timm:test_resnet")
    with zipfile.ZipFile(tmp_path / "run.zip", "w") as archive:
        archive.write(path, "run/encoder.safetensors")
    assert_same_weights(load_encoder(f"zip://{inside}::{tmp_path / 'run.zip'}"), backbone.state_dict())


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "checkpoint_7", "checkpoint_000000007"])
def test_the_folder_of_a_run_may_have_any_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    _, backbone = write(tmp_path / name, "timm:test_resnet")
    assert_same_weights(load_encoder(tmp_path / name), backbone.state_dict())


@pytest.mark.parametrize("path", [None, ""])
def test_no_path_is_said(path: str | None) -> None:
    with pytest.raises(ValueError, match=r"path is .*: name an encoder\.safetensors"):
        load_encoder(path)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "best.ckpt"])
def test_a_folder_with_other_weights_asks_for_the_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(ValueError, match=rf"name the file, .*{name}"):
        load_encoder(tmp_path)
