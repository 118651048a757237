"""Encoders in the layouts of other tools, loaded by those in a process without moco_ray."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save
from torch import nn

from moco_ray.config.model import ModelConfig
from moco_ray.core.encoders import build_backbone
from moco_ray.driver.run import pretrain
from moco_ray.run_folder.begin import stored_images
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.weights.encoder_file import encoder_bytes, encoder_info, load_encoder
from moco_ray.weights.layouts import onnx_file
from moco_ray.weights.layouts.detectron2 import detectron2_name
from moco_ray.weights.layouts.export import LAYOUTS, export_weights, write_verified
from moco_ray.weights.layouts.layout import Layout, Source
from moco_ray.weights.layouts.source import Told, read_encoder_source
from moco_ray.weights.layouts.verify import NotTheSame
from tests.runs import tiny_config

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
RESNET, CIFAR = ModelConfig(arch="resnet18"), ModelConfig(arch="resnet18", stem="cifar")
TINY, VIT = ModelConfig(arch="tiny_resnet"), ModelConfig(arch="vit_mini", patch_px=4)


def write_encoder(folder: Path, model: ModelConfig, px: int = 32) -> str:
    """An encoder file whose BatchNorms are those of a trained network: no mean is 0, and no scale is 1."""
    torch.manual_seed(0)
    backbone = build_backbone(model, px)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.normal_(module.bias, std=0.1)
            for scale in (module.running_var, module.weight):
                nn.init.uniform_(scale, 0.5, 1.5)
    metadata = {
        **{"arch": model.arch, "stem": model.stem, "patch_px": str(model.patch_px), "crop_px": str(px), "step": "7"},
        **{"mean": json.dumps(MEAN), "std": json.dumps(STD)},
    }
    (folder / "encoder.safetensors").write_bytes(encoder_bytes(backbone.eval(), metadata))
    return str(folder / "encoder.safetensors")


def place_of(layout: str, folder: Path) -> str:
    return str(folder / f"out{(*LAYOUTS[layout].suffixes, '')[0]}")


def slow(layout: str, model: ModelConfig, px: int) -> Any:
    return pytest.param(layout, model, px, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("layout", "model", "px"),
    [
        ("huggingface", VIT, 32),
        slow("torchvision", RESNET, 32),
        slow("timm", VIT, 32),
        slow("detectron2", RESNET, 32),
        slow("huggingface", ModelConfig(arch="vit_small"), 224),
        slow("safetensors", CIFAR, 32),
        slow("detectron2", ModelConfig(arch="resnet50"), 64),
        slow("onnx", ModelConfig(arch="resnet50"), 64),
        slow("onnx", VIT, 32),
    ],
)
def test_the_tool_that_a_file_is_for_gives_the_same_features(
    layout: str, model: ModelConfig, px: int, tmp_path: Path
) -> None:
    exported = export_weights(write_encoder(tmp_path, model, px), layout, place_of(layout, tmp_path))
    assert exported.max_abs_difference <= 1e-5 * exported.largest_feature  # the order of sums may be another
    assert all(Path(file).stat().st_size for file in exported.files)
    assert (exported.arch, exported.metadata["crop_px"]) == (model.arch, px)


@pytest.mark.slow
def test_that_a_collapsed_encoder_shows_little_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = read_encoder_source(write_encoder(tmp_path, TINY), None, Told())
    for weight in source.backbone.parameters():
        nn.init.zeros_(weight)
    assert write_verified(LAYOUTS["timm"], source, str(tmp_path / "out.pth")).largest_feature == 0
    assert "as one that has collapsed does" in caplog.text


def test_every_layout_has_such_a_test() -> None:
    assert set(LAYOUTS) == {"torchvision", "timm", "safetensors", "detectron2", "huggingface", "onnx"}


@pytest.mark.parametrize(
    ("layout", "model", "message"),
    [
        ("torchvision", VIT, "vit_mini is none of them; use --to timm"),
        ("torchvision", CIFAR, "cifar stem.*use --to onnx, or --to safetensors"),
        ("timm", CIFAR, "timm has no ResNet with the cifar stem|timm has none"),
        ("huggingface", CIFAR, "layout huggingface has no ResNet with the cifar stem"),
        ("detectron2", TINY, "the layout detectron2 is for torchvision's ResNets"),
    ],
)
def test_a_network_that_a_tool_lacks_is_refused(layout: str, model: ModelConfig, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export_weights(write_encoder(tmp_path, model), layout, place_of(layout, tmp_path))
    assert not Path(place_of(layout, tmp_path)).exists()


def _changed(layout: Layout) -> Layout:
    """One weight of a thousand is another."""

    def write(source: Source, suffix: str) -> dict[str, bytes]:
        state = source.state()
        state["layer4.0.conv1.weight"].view(-1)[::1000] += 1
        return {"": save(state)}

    return replace(layout, write=write)


def _broken(layout: Layout) -> Layout:
    return replace(layout, write=lambda source, suffix: {"": b"no weights"})


def _of_another_width(layout: Layout) -> Layout:
    return replace(layout, program="done(numpy.zeros((4, 5)), 'nobody')")


def _with_moco_ray(layout: Layout) -> Layout:
    return replace(layout, program="import moco_ray.core.encoders")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_changed, r"differ from the encoder's by up to \d.*nothing was written"),
        (_broken, "the file cannot be loaded.*nothing was written"),
        (_of_another_width, r"features are \(4, 5\) by nobody, and not \(4, 96\)"),
        (_with_moco_ray, "the file cannot be loaded .ModuleNotFoundError.*moco_ray"),
    ],
)
def test_a_file_that_is_not_the_encoder_is_not_left_behind(change: Any, message: str, tmp_path: Path) -> None:
    source = read_encoder_source(write_encoder(tmp_path, TINY), None, Told())
    with pytest.raises(NotTheSame, match=message):
        write_verified(change(LAYOUTS["timm"]), source, str(tmp_path / "out.safetensors"))
    assert [file.name for file in tmp_path.iterdir()] == ["encoder.safetensors"]


def _detectron2_names(blocks: tuple[int, ...], convolutions: int) -> Iterator[str]:
    """Every weight of Detectron2's ResNet, from its structure."""

    def convolution(name: str) -> Iterator[str]:
        yield f"{name}.weight"
        yield from (f"{name}.norm.{part}" for part in ("weight", "bias", "running_mean", "running_var"))

    yield from convolution("stem.conv1")
    for stage, num_blocks in enumerate(blocks, start=2):
        for block in range(num_blocks):
            has_shortcut = block == 0 and (stage > 2 or convolutions == 3)
            if has_shortcut:
                yield from convolution(f"res{stage}.{block}.shortcut")
            for i in range(1, convolutions + 1):
                yield from convolution(f"res{stage}.{block}.conv{i}")


@pytest.mark.parametrize(
    ("arch", "blocks", "convolutions"), [("resnet18", (2, 2, 2, 2), 2), ("resnet50", (3, 4, 6, 3), 3)]
)
def test_detectron2_finds_its_own_names_and_shapes(arch: str, blocks: tuple[int, ...], convolutions: int) -> None:
    network = torchvision.models.get_model(arch)
    network.fc = nn.Identity()
    names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    assert sorted(map(detectron2_name, names)) == sorted(_detectron2_names(blocks, convolutions))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_mean", "stem.conv1.norm.running_mean"),
        ("layer1.0.conv3.weight", "res2.0.conv3.weight"),
        ("layer1.0.downsample.0.weight", "res2.0.shortcut.weight"),
        ("layer2.0.downsample.1.bias", "res3.0.shortcut.norm.bias"),
        ("layer3.5.bn2.weight", "res4.5.conv2.norm.weight"),
        ("layer4.2.bn3.running_var", "res5.2.conv3.norm.running_var"),
    ],
)
def test_a_weight_has_detectron2s_name(theirs: str, ours: str) -> None:
    assert detectron2_name(theirs) == ours


def test_detectron2s_file_is_a_plain_pickle_of_arrays(tmp_path: Path) -> None:
    source = read_encoder_source(write_encoder(tmp_path, RESNET), None, Told())
    content = pickle.loads(LAYOUTS["detectron2"].write(source, ".pkl")[""])
    assert content["matching_heuristics"] is True and content["__author__"]
    assert content["model"]["stem.conv1.weight"].shape == (64, 3, 7, 7)
    hints = LAYOUTS["detectron2"].hints(source, "out.pkl")
    assert (
        "MODEL.PIXEL_MEAN: [127.500, 102.000, 76.500]" in hints
        and "MODEL.PIXEL_STD: [51.000, 76.500, 102.000]" in hints
    )


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_torchvisions_segmentation_networks_take_the_file_for_torchvision(name: str, tmp_path: Path) -> None:
    source = read_encoder_source(write_encoder(tmp_path, ModelConfig(arch="resnet50")), None, Told())
    (tmp_path / "resnet50.pth").write_bytes(LAYOUTS["torchvision"].write(source, ".pth")[""])
    state = torch.load(tmp_path / "resnet50.pth", weights_only=True)
    network = torchvision.models.segmentation.__dict__[name](weights=None, weights_backbone=None, num_classes=2)
    report = network.backbone.load_state_dict(state, strict=False)
    assert (report.missing_keys, report.unexpected_keys) == ([], [])
    assert torch.equal(network.backbone.layer4[2].conv3.weight, source.backbone.state_dict()["layer4.2.conv3.weight"])


def test_an_onnx_file_needs_packages_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "_PACKAGES", ("onnx", "onnx_that_nobody_has"))
    with pytest.raises(ValueError, match=r"needs onnx_that_nobody_has, not installed here: pip install .*\[export\]"):
        export_weights(write_encoder(tmp_path, TINY), "onnx", str(tmp_path / "out.onnx"))


def test_a_folder_for_the_hub_says_what_is_known_and_no_more(tmp_path: Path) -> None:
    path = write_encoder(tmp_path, VIT)
    source = read_encoder_source(path, None, Told())
    files = LAYOUTS["huggingface"].write(source, "")
    assert set(files) == {"config.json", "model.safetensors", "README.md"}
    config = json.loads(files["config.json"])
    assert (config["architecture"], config["num_classes"], config["num_features"]) == ("vit_tiny_patch16_224", 0, 192)
    assert config["model_args"]["patch_size"] == 4 and config["model_args"]["depth"] == 6
    wanted = {"mean": MEAN, "std": STD, "input_size": [3, 32, 32], "crop_pct": 1.0, "num_classes": 0}
    assert wanted.items() <= config["pretrained_cfg"].items()
    card = files["README.md"].decode()
    assert "| Features | 192 |" in card and "| Steps | 7 |" in card and "Nothing: the run had no evaluation" in card
    assert str(tmp_path) not in card and "license:" not in card


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that was evaluated."""
    config = tiny_config(images, tmp_path_factory.mktemp("runs"), max_steps=4, dtype="float32")
    return Path(pretrain(config, say=lambda line: None).folder)


def test_the_file_of_a_run_tells_of_its_preset_images_and_last_evaluation(run: Path, tmp_path: Path) -> None:
    source = read_encoder_source(str(run), None, Told())
    place = tmp_path / "mine.safetensors"
    place.write_bytes(LAYOUTS["safetensors"].write(source, ".safetensors")[""])
    info = encoder_info(place)
    assert info == source.info
    assert (info["preset"], info["step"], info["arch"]) == ("smoke", 4, "tiny_resnet")
    assert info["manifest_digest"] == stored_images(Storage.open(str(run), StorageOptions({}))).train.digest
    last = json.loads((run / "eval.jsonl").read_text().splitlines()[-1])
    assert info["metrics"]["knn_top1"] == last["eval/knn_top1"]
    own = load_file(run / "encoder.safetensors")
    assert all(torch.equal(tensor, own[name]) for name, tensor in load_encoder(place).state_dict().items())


def test_a_finished_run_says_itself_what_it_was(run: Path) -> None:
    info = encoder_info(run / "encoder.safetensors")
    assert (info["preset"], info["method"]) == ("smoke", "moco") and len(info["manifest_digest"]) == 64


def test_the_card_of_a_run_has_its_measures(run: Path) -> None:
    source = read_encoder_source(str(run), None, Told())
    card = LAYOUTS["huggingface"].write(source, "")["README.md"].decode()
    assert f"| knn_top1 | {source.info['metrics']['knn_top1']:.4g} |" in card
    assert "| Preset | smoke of moco_ray" in card and source.info["manifest_digest"] in card


def test_an_early_checkpoint_has_no_later_evaluation(run: Path) -> None:
    (run / "eval.jsonl").write_text(
        "".join(json.dumps({"step": step, "eval/knn_top1": step / 10}) + "\n" for step in (0, 4, 8))
    )
    assert read_encoder_source(str(run), None, Told()).info["metrics"] == {"knn_top1": 0.4}


@pytest.mark.slow
def test_a_run_in_a_bucket_is_written_to_a_bucket(run: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(run), "/bucket/layouts", recursive=True)
    export_weights("memory://bucket/layouts", "huggingface", "memory://bucket/hub")
    assert {path.rsplit("/", 1)[-1] for path in memory.ls("/bucket/hub", detail=False)} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
