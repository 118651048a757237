"""The command that writes encoders for other tools."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
import torchvision

from moco_ray.cli.weights import main
from moco_ray.config.model import ModelConfig
from moco_ray.weights.encoder_file import encoder_info
from tests.weights.test_layouts import write_encoder
from tests.weights.test_official import OLD, QUEUE, resnet18, saved, v2_head


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that breaks no path."""
    monkeypatch.setenv("COLUMNS", "1000")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A checkpoint with the layout of MoCo v2's authors."""
    checkpoint = saved("resnet18", resnet18(v2_head(), 1), resnet18(v2_head(), 2), OLD, QUEUE)
    torch.save(checkpoint, tmp_path / "official.pth.tar")
    return tmp_path / "official.pth.tar"


def test_mocos_own_checkpoint_becomes_torchvisions(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "out.pth", tmp_path / "out.json"
    assert main([str(official), "--to", "torchvision", "--output", str(out), "--json", str(report)]) == 0
    network = torchvision.models.resnet18()
    network.load_state_dict(torch.load(out, weights_only=True), strict=False)
    query = resnet18(v2_head(), 1)
    assert torch.equal(network.layer4[1].conv2.weight, query.get_parameter("layer4.1.conv2.weight"))
    told = json.loads(report.read_text())
    assert (told["layout"], told["files"], told["arch"]) == ("torchvision", [str(out)], "resnet18")
    assert told["max_abs_difference"] <= told["tolerance"] and told["feature_dim"] == 512
    assert told["metadata"]["crop_px"] == 224 and told["metadata"]["imported_from"] == "official.pth.tar"
    printed = capsys.readouterr().out
    assert "they differ by at most" in printed and "model = torchvision.models.resnet18()" in printed


@pytest.mark.slow
def test_a_bare_state_dict_becomes_ours_with_what_is_told(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "weights.pth")
    out = tmp_path / "out.safetensors"
    told = "--to safetensors --arch resnet18 --crop-px 96 --mean 0.5 0.5 0.5"
    assert main([str(tmp_path / "weights.pth"), *told.split(), "--output", str(out)]) == 0
    info = encoder_info(out)
    assert (info["arch"], info["crop_px"], info["mean"]) == ("resnet18", 96, [0.5, 0.5, 0.5])
    assert (info["std"], info["step"], info["imported_from"]) == ([0.229, 0.224, 0.225], 0, "weights.pth")


class System:
    """A pickle that asks for a shell."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_runs_a_command_is_refused(
    is_zip: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, witness = tmp_path / "evil.pth.tar", tmp_path / "witness"
    content = {"arch": "resnet18", "state_dict": {"conv1.weight": System(witness)}}
    if is_zip:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    assert main([str(path), "--to", "timm", "--arch", "resnet18", "--output", str(tmp_path / "out.pth")]) == 2
    assert "is no file of weights that is safe to load" in said(capsys)
    assert not witness.exists() and not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("BARE --to timm --output out.pth", "does not say what network it is of; name it with --arch"),
        (
            "BARE --to timm --output out.pth --arch resnet50",
            r"does not fit the model: .*layer1\.0\.conv1\.weight is .*check --arch",
        ),
        ("BARE --to timm --output out.pth --arch resnet18 --stem cifar", r"conv1.weight is .64, 3, 7, 7.*--stem"),
        ("BARE --to timm --output out.pth --arch resnet19", r"--arch 'resnet19' is no torchvision ResNet"),
        ("BARE --to timm --output out.pth --arch resnet18 --std 0 1 1", "views.std is"),
        ("OWN --to timm --output out.pth --arch resnet18", "says itself what its encoder is; drop --arch"),
        ("OWN --to timm --output out", "the layout timm is a file; name it out.safetensors or .pth"),
        ("OWN --to detectron2 --output out.pkl", "use --to timm, huggingface, onnx or safetensors"),
        ("nowhere.pth --to timm --output out.pth", "nowhere.pth"),
    ],
)
def test_what_cannot_be_written_is_said(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(torchvision.models.resnet18().state_dict(), "bare.pth")
    own = write_encoder(tmp_path, ModelConfig(arch="tiny_resnet"))
    assert main(arguments.replace("BARE", "bare.pth").replace("OWN", own).split()) == 2
    error = said(capsys)
    assert re.search(message, error), error
    assert "model.init" not in error and not list(tmp_path.glob("out*"))


@pytest.mark.slow
def test_another_tools_other_features_are_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moco_ray.weights.layouts.verify.TOLERANCE", -1.0)  # nothing is near enough
    own = write_encoder(tmp_path, ModelConfig(arch="tiny_resnet"))
    assert main([own, "--to", "timm", "--output", str(tmp_path / "out.pth")]) == 1
    assert "nothing was written" in said(capsys) and not (tmp_path / "out.pth").exists()
