from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moco_ray.config.model import ModelConfig
from moco_ray.core.encoders import Encoder, build_backbone, build_encoder
from moco_ray.core.group_batch_norm import use_group_batch_norm
from moco_ray.evaluate.encoder_file import encoder_bytes, encoder_info, load_encoder, load_initial_weights

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


@pytest.mark.parametrize(("arch", "stem"), [("resnet18", "cifar"), ("timm:test_resnet", "imagenet")])
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
    assert info == {
        "arch": "resnet18",
        "stem": "cifar",
        "crop_px": 32,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "step": 7,
        "feature_dim": 512,
    }


def test_group_batch_norm_is_written_as_batch_norm(tmp_path: Path) -> None:
    plain = build_backbone(ModelConfig(arch="timm:test_resnet"))
    expected = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    wrapped = nn.ModuleDict({"backbone": plain})
    use_group_batch_norm(wrapped, 4)
    path = tmp_path / "encoder.safetensors"
    metadata = {"arch": "timm:test_resnet", "stem": "imagenet", **METADATA}
    path.write_bytes(encoder_bytes(wrapped["backbone"], metadata))
    assert_same_weights(load_encoder(str(path)), expected)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0[]"])
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
    with pytest.raises(ValueError, match=r"model\.init.*nothing\.pt.*no such file"):
        load_initial_weights(tiny_encoder(), str(tmp_path / "nothing.pt"))


def test_initial_weights_come_from_an_encoder_file(tmp_path: Path) -> None:
    path, backbone = write(tmp_path, "timm:test_resnet")
    encoder = tiny_encoder()
    projector = {name: tensor.clone() for name, tensor in encoder.projector.state_dict().items()}
    said = load_initial_weights(encoder, str(path))
    assert f"{len(backbone.state_dict())} tensors" in said
    assert "the projector starts fresh" in said
    assert_same_weights(encoder.backbone, backbone.state_dict())
    assert_same_weights(encoder.projector, projector)


@pytest.mark.parametrize("name", ["full.safetensors", "full.pt"])
def test_initial_weights_come_from_a_full_encoder_projector_included(name: str, tmp_path: Path) -> None:
    other, encoder = tiny_encoder(1), tiny_encoder(2)
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save(other.state_dict(), path)
    else:
        save_file(other.state_dict(), path)
    assert "fresh" not in load_initial_weights(encoder, str(path))
    assert_same_weights(encoder, other.state_dict())


def test_initial_weights_come_from_torchvision_without_its_classifier(tmp_path: Path) -> None:
    model = torchvision.models.resnet18()
    torch.save(model.state_dict(), tmp_path / "resnet18.pth")
    encoder = build_encoder(ModelConfig(arch="resnet18", dim=16))
    assert "2 tensors of a classifier" in load_initial_weights(encoder, str(tmp_path / "resnet18.pth"))
    model.fc = nn.Identity()
    assert_same_weights(encoder.backbone, model.state_dict())


def test_initial_weights_come_from_the_query_encoder_of_an_official_checkpoint(tmp_path: Path) -> None:
    query, key = (torchvision.models.resnet18() for _ in range(2))
    query.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))
    state = {f"module.encoder_q.{name}": tensor for name, tensor in query.state_dict().items()}
    state |= {f"module.encoder_k.{name}": tensor for name, tensor in key.state_dict().items()}
    state["module.queue"] = torch.zeros(128, 8)
    torch.save({"epoch": 200, "arch": "resnet18", "state_dict": state}, tmp_path / "official.pth.tar")
    encoder = build_encoder(ModelConfig(arch="resnet18"))
    load_initial_weights(encoder, str(tmp_path / "official.pth.tar"))
    query.fc = nn.Identity()
    assert_same_weights(encoder.backbone, query.state_dict())


def save_changed(path: Path, change: dict[str, Tensor | None]) -> str:
    state = tiny_encoder(1).state_dict() | change
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, path)
    return str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone.what": torch.zeros(1)}, r"1 of \d+ keys are unknown to it \(backbone\.what\)"),
        ({"projector.0.bias": torch.zeros(3)}, r"projector\.0\.bias is \(3,\) and not"),
        ({"backbone.conv1.0.weight": None}, r"lacks 1 tensors of the backbone \(backbone\.conv1\.0\.weight\)"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    encoder = tiny_encoder()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_initial_weights(encoder, save_changed(tmp_path / "changed.pt", change))
    assert_same_weights(encoder, before)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pt")
    with pytest.raises(ValueError, match=r"does not fit the model.*check model\.arch"):
        load_initial_weights(tiny_encoder(), str(tmp_path / "resnet18.pt"))
    with pytest.raises(ValueError, match=r"backbone\.conv1\.weight is \(64, 3, 7, 7\) and not \(64, 3, 3, 3\)"):
        load_initial_weights(build_encoder(ModelConfig(arch="resnet18", stem="cifar")), str(tmp_path / "resnet18.pt"))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    path, witness = tmp_path / "evil.pt", tmp_path / "witness"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (witness,)

    torch.save({"x": Evil()}, path, pickle_module=pickle)
    with pytest.raises(ValueError, match="no file of weights that is safe to load"):
        load_initial_weights(tiny_encoder(), str(path))
    assert not witness.exists()


def test_a_file_without_a_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_initial_weights(tiny_encoder(), str(tmp_path / "list.pt"))
