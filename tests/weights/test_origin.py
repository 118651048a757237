"""What is known of the encoder that model.init names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch
import torchvision
from torch import nn

from moco_ray.config.model import ModelConfig
from moco_ray.driver.run import pretrain
from moco_ray.weights.origin import origin_of
from tests.runs import tiny_config
from tests.weights.test_encoder_file import write
from tests.weights.test_initial_weights import named

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    config = tiny_config(images, tmp_path_factory.mktemp("runs"), max_steps=2, dtype="float32", keep_last=2)
    config = replace(config, views=replace(config.views, mean=(0.1, 0.2, 0.3)))
    return Path(pretrain(config, say=lambda line: None).folder)


def test_a_run_tells_all_of_itself(run: Path) -> None:
    checkpoint = next(run.glob("checkpoint_*"))
    for path in (run, run / "encoder.safetensors", checkpoint, checkpoint / "state.pt"):
        origin = origin_of(str(path))
        assert origin is not None and origin.config is not None, path
        assert (origin.run, origin.step, origin.crop_px) == (str(run), 2, 32)
        assert (origin.mean, origin.std) == ((0.1, 0.2, 0.3), IMAGENET[1])
        assert (origin.model.arch, origin.model.dim) == ("tiny_resnet", 16)
        assert origin.config.preset == "smoke" and origin.config.method.name == "moco"


def test_a_copy_tells_what_is_in_it(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "encoder.safetensors", tmp_path / "copy")
    origin = origin_of(str(tmp_path / "copy"))
    assert origin is not None
    assert (origin.run, origin.config, origin.step, origin.model.arch) == (None, None, 2, "tiny_resnet")
    copy = shutil.copytree(next(run.glob("checkpoint_*")), tmp_path / "best")
    origin = origin_of(str(copy))
    assert origin is not None and origin.config is not None
    assert (origin.run, origin.config.optim.global_batch_size, origin.model.dim) == (None, 24, 16)


def test_a_run_in_a_bucket_is_known_by_its_url(run: Path) -> None:
    fsspec.filesystem("memory").put(str(run), "/bucket/origin", recursive=True)
    for path in ("memory://bucket/origin", "memory://bucket/origin/encoder.safetensors"):
        origin = origin_of(path)
        assert origin is not None and origin.run is not None and origin.run.rstrip("/").endswith("bucket/origin")
        assert origin_of(origin.run) == origin


def test_an_encoder_in_the_folder_of_another_run_is_not_of_that_run(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "config.json", tmp_path)
    path, _ = write(tmp_path, "resnet18", "cifar")
    origin = origin_of(str(path))
    assert origin is not None
    assert (origin.run, origin.model) == (None, ModelConfig(arch="resnet18", stem="cifar"))


def test_another_programs_config_beside_an_encoder_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "resnet18", "num_classes": 0}')
    path, _ = write(tmp_path, "resnet18")
    origin = origin_of(str(path))
    assert origin is not None and origin.run is None and origin.config is None


def _official(fc: nn.Module, prefix: str) -> dict[str, object]:
    network = torchvision.models.resnet18()
    network.fc = fc
    return {"epoch": 200, "arch": "resnet18", "state_dict": named(network.state_dict(), f"module.{prefix}.")}


V1 = nn.Linear(512, 128)
V2 = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))
V3 = nn.Sequential(
    *(nn.Linear(512, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32, bias=False)),
    nn.BatchNorm1d(32, affine=False),
)


@pytest.mark.parametrize(
    ("fc", "prefix", "model"),
    [
        (V1, "encoder_q", ModelConfig(arch="resnet18", projector="linear")),
        (V2, "encoder_q", ModelConfig(arch="resnet18", projector="mlp", hidden_dim=512)),
        (V3, "base_encoder", ModelConfig(arch="resnet18", projector="mlp-bn", hidden_dim=64, dim=32)),
    ],
)
def test_files_of_mocos_authors_name_their_network(
    fc: nn.Module, prefix: str, model: ModelConfig, tmp_path: Path
) -> None:
    torch.save(_official(fc, prefix), tmp_path / "official.pth.tar")
    origin = origin_of(str(tmp_path / "official.pth.tar"))
    assert origin is not None
    assert origin.model == model
    assert (origin.crop_px, origin.mean, origin.std) == (224, *IMAGENET)
    assert (origin.step, origin.run, origin.config) == (None, None, None)


def test_of_a_bare_state_dict_nothing_is_known(tmp_path: Path) -> None:
    content = torchvision.models.resnet18().state_dict()
    for saved in (
        content,
        {"arch": "resnet18", "state_dict": content},
        {**_official(V1, "encoder_q"), "arch": "vgg16"},
    ):
        torch.save(saved, tmp_path / "weights.pth")
        assert origin_of(str(tmp_path / "weights.pth")) is None


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing\.pth"):
        origin_of(str(tmp_path / "nothing.pth"))


def test_it_imports_nothing_heavy_before_it_is_asked() -> None:
    names = {"torch", "timm", "torchvision", "numpy", "fsspec", "ray"}
    program = f"import sys, moco_ray.weights.origin; sys.exit(' '.join({names} & sys.modules.keys()) or None)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
