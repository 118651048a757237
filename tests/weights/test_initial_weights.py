from __future__ import annotations

import argparse
import pickle
import time
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from fsspec import AbstractFileSystem, register_implementation
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moco_ray.config.model import ModelConfig
from moco_ray.core.encoders import Encoder, build_encoder
from moco_ray.weights.encoder_file import encoder_bytes
from moco_ray.weights.initial_weights import load_initial_weights
from tests.weights.test_encoder_file import METADATA, assert_same_weights, tiny_encoder, write


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


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.init.*nothing\.pt.*no such file"):
        load_initial_weights(tiny_encoder(), str(tmp_path / "nothing.pt"))


def named(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def other(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor + 1 for name, tensor in state.items()}


WRAPPED: dict[str, Any] = {
    "compiled": lambda s: named(s, "_orig_mod."),
    "compiled inside": lambda s: named(named(s, "_orig_mod."), "backbone."),
    "compiled layer": lambda s: {name.replace("layer1.", "layer1._orig_mod."): t for name, t in s.items()},
    "distributed": lambda s: {"model": named(s, "module."), "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "lightning": lambda s: {
        "epoch": 3,
        "state_dict": {**named(s, "model.backbone."), "model.head.weight": torch.ones(2)},
    },
    "dino": lambda s: {
        "student": named(other(s), "module.backbone."),
        "teacher": {**named(s, "backbone."), **named(s, "head.mlp.")},
    },
    "averaged": lambda s: {"model": other(s), "model_ema": s},
    "moco": lambda s: {"state_dict": {**named(other(s), "module.encoder_k."), **named(s, "module.encoder_q.")}},
    "moco v3": lambda s: {
        "state_dict": {
            **named(other(s), "module.momentum_encoder."),
            **named(s, "module.base_encoder."),
            "module.base_encoder.fc.0.weight": torch.ones(2, 2),
            "module.predictor.0.weight": torch.ones(2, 2),
        }
    },
    "supervised": lambda s: {"model": {**s, "head.fc.weight": torch.ones(2, 2), "classifier.bias": torch.ones(2)}},
    "swav": lambda s: {
        **named(s, "module."),
        "module.projection_head.0.weight": torch.ones(2, 2),
        "module.prototypes.weight": torch.ones(2, 2),
    },
    "masked": lambda s: {"model": {**s, "mask_token": torch.ones(1), "decoder_blocks.0.weight": torch.ones(2)}},
    "averaged by torch": lambda s: {"n_averaged": torch.tensor(3), **named(s, "module.")},
    "momentum encoder alone": lambda s: {"state_dict": named(s, "module.momentum_encoder.")},
    "byol": lambda s: {"net": {**named(other(s), "target_encoder.net."), **named(s, "online_encoder.net.")}},
    "deeply nested": lambda s: {"a": {"b": {"trunk._feature_blocks": s}}},
    "ordered, half precision": lambda s: OrderedDict(
        (name, t.half() if t.is_floating_point() else t) for name, t in s.items()
    ),
    "bfloat16": lambda s: {
        "model_state": {name: t.bfloat16() if t.is_floating_point() else t for name, t in s.items()}
    },
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_weights_are_found_under_any_wrapper(kind: str, tmp_path: Path) -> None:
    encoder, source = tiny_encoder(), tiny_encoder(1).backbone
    torch.save(WRAPPED[kind](source.state_dict()), tmp_path / "weights.pth")
    said = load_initial_weights(encoder, str(tmp_path / "weights.pth"))
    expected = source.state_dict()
    if "half" in kind or "bfloat" in kind:
        dtype = torch.half if "half" in kind else torch.bfloat16
        expected = {n: t.to(dtype).to(t.dtype) if t.is_floating_point() else t for n, t in expected.items()}
    assert_same_weights(encoder.backbone, expected)
    assert "the projector starts fresh" in said


def test_a_choice_between_networks_is_said(tmp_path: Path) -> None:
    state = tiny_encoder(1).backbone.state_dict()
    torch.save(WRAPPED["dino"](state), tmp_path / "dino.pth")
    said = load_initial_weights(tiny_encoder(), str(tmp_path / "dino.pth"))
    assert "under teacher.backbone (there are such under" in said and "student.module.backbone" in said


def test_children_of_a_network_in_a_sequential_are_known_by_their_place(tmp_path: Path) -> None:
    model = torchvision.models.resnet18()
    backbone = nn.Sequential(*list(model.children())[:-1])
    state = {**named(backbone.state_dict(), "backbone."), "projection_head.layers.0.weight": torch.ones(2)}
    torch.save({"state_dict": state}, tmp_path / "lightly.ckpt")
    encoder = build_encoder(ModelConfig(arch="resnet18"))
    load_initial_weights(encoder, str(tmp_path / "lightly.ckpt"))
    model.fc = nn.Identity()
    assert_same_weights(encoder.backbone, model.state_dict())


class Settings:
    """A class of another program."""

    def __init__(self) -> None:
        self.lr = 0.1


class EasyDict(dict[str, Any]):
    """A dictionary of another program."""


class Wrapped(nn.Module):
    """A module of another program."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(lr=0.1),
        np.float64(3.5),
        np.arange(3),
        Path("data"),
        Settings(),
        EasyDict(a=EasyDict(b=1)),
        defaultdict(list, a=[1]),
        torch.optim.lr_scheduler.StepLR,
    ],
)
def test_harmless_objects_beside_the_weights_are_passed_over(beside: object, legacy: bool, tmp_path: Path) -> None:
    encoder, source = tiny_encoder(), tiny_encoder(1).backbone
    content = {"args": beside, "state_dict": source.state_dict(), "best": np.float32(1)}
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=not legacy)
    load_initial_weights(encoder, str(tmp_path / "weights.pth"))
    assert_same_weights(encoder.backbone, source.state_dict())


def test_a_whole_module_is_looked_through_without_its_code(tmp_path: Path) -> None:
    encoder, source = tiny_encoder(), tiny_encoder(1).backbone
    torch.save({"model": Wrapped(source)}, tmp_path / "module.pth")
    load_initial_weights(encoder, str(tmp_path / "module.pth"))
    assert_same_weights(encoder.backbone, source.state_dict())


def test_safetensors_are_known_by_their_content_and_have_prefixes_too(tmp_path: Path) -> None:
    encoder, source = tiny_encoder(), tiny_encoder(1).backbone
    save_file(named(source.state_dict(), "model.visual."), tmp_path / "weights.bin")
    assert "under model.visual" in load_initial_weights(encoder, str(tmp_path / "weights.bin"))
    assert_same_weights(encoder.backbone, source.state_dict())


def files(folder: Path) -> dict[str, bytes]:
    torch.save(tiny_encoder(1).backbone.state_dict(), folder / "whole.pt")
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(folder / "script.pt"))
    whole = (folder / "whole.pt").read_bytes()
    return {
        "text": b"not found, and no page",
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "pickle": pickle.dumps({"a": np.zeros(3)}, protocol=4),
        "script": (folder / "script.pt").read_bytes(),
    }


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "neither safetensors nor written by torch.save"),
        ("empty", "it is empty"),
        ("cut", "cut or damaged"),
        ("pickle", "torch cannot read it"),
        ("script", "TorchScript"),
    ],
)
def test_what_cannot_be_read_is_said_without_torchs_advice(kind: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(files(tmp_path)[kind])
    with pytest.raises(ValueError, match=message) as raised:
        load_initial_weights(tiny_encoder(), str(tmp_path / "weights.pt"))
    assert "weights_only" not in str(raised.value) and "\x1b" not in str(raised.value)
    assert "safe_globals" not in str(raised.value) and "\n" not in str(raised.value)


def vit(arch: str, px: int) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(ModelConfig(arch=arch, patch_px=8), px)


def encoder_file(folder: Path, arch: str, px: int, **model: Any) -> str:
    encoder = build_encoder(ModelConfig(arch=arch, **model), px)
    names = {"arch": arch, "stem": "imagenet", "patch_px": str(model.get("patch_px", 16))}
    path = folder / "encoder.safetensors"
    path.write_bytes(encoder_bytes(encoder.backbone, {**METADATA, **names, "crop_px": str(px)}))
    return str(path)


@pytest.mark.parametrize(
    ("trained", "model", "px", "message"),
    [
        ("vit_small", "timm:vit_small_patch16_224", 224, "num heads 12 and not 6.*Use --model.arch vit_small"),
        ("timm:vit_small_patch16_224", "vit_small", 224, "num heads 6 and not 12"),
        ("timm:tf_efficientnet_lite0", "timm:efficientnet_lite0", 64, "batch norm eps 0.001 and not 1e-05"),
        ("timm:resnet26", "timm:resnet26t", 64, "unknown|lacks|another shape"),
    ],
)
def test_a_network_that_shares_names_and_shapes_alone_is_refused(
    trained: str, model: str, px: int, message: str, tmp_path: Path
) -> None:
    path = encoder_file(tmp_path, trained, px)
    encoder = build_encoder(ModelConfig(arch=model, dim=16), px)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_initial_weights(encoder, path)
    assert_same_weights(encoder, before)


def set_norm_eps(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-3


def use_relu(net: nn.Module) -> None:
    for block in net.blocks:  # type: ignore[union-attr]
        block.mlp.act = nn.ReLU()


def pool_patches(net: nn.Module) -> None:
    net.global_pool = "avg"  # type: ignore[assignment]


class Flip(nn.Module):
    """A step without weights."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(-1)


def flip_the_input_of_blocks(net: nn.Module) -> None:
    net.norm_pre = Flip()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_norm_eps, "layer norm eps 1e-06 and not 0.001"),
        (use_relu, "activations GELU and not ReLU"),
        (pool_patches, "pooling token and not avg"),
        (flip_the_input_of_blocks, "other features from the same image"),
    ],
)
def test_every_other_step_of_a_network_is_noticed(change: Any, message: str, tmp_path: Path) -> None:
    path = encoder_file(tmp_path, "vit_mini", 32, patch_px=8)
    encoder = vit("vit_mini", 32)
    load_initial_weights(encoder, path)
    change(encoder.backbone)
    with pytest.raises(ValueError, match=message):
        load_initial_weights(encoder, path)


def test_strides_in_another_place_are_noticed(tmp_path: Path) -> None:
    path = encoder_file(tmp_path, "resnet50", 32)
    encoder = build_encoder(ModelConfig(arch="resnet50", dim=16))
    block = encoder.backbone.layer2[0]
    block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)  # as in the paper; torchvision's is "v1.5"
    with pytest.raises(ValueError, match=r"strides 1 \(layer2.0.conv1\) and not 2 \(layer2.0.conv1\)"):
        load_initial_weights(encoder, path)


def test_the_same_network_of_another_library_is_taken(tmp_path: Path) -> None:
    path = encoder_file(tmp_path, "resnet18", 32)
    load_initial_weights(build_encoder(ModelConfig(arch="timm:resnet18", dim=16)), path)


def test_files_without_metadata_are_taken(tmp_path: Path) -> None:
    source = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32)
    save_file(source.state_dict(), tmp_path / "old.safetensors")
    encoder = build_encoder(ModelConfig(arch="timm:vit_tiny_patch16_224", dim=16), 32)
    load_initial_weights(encoder, str(tmp_path / "old.safetensors"))
    assert_same_weights(encoder.backbone, source.state_dict())


def test_positions_of_another_size_are_interpolated(tmp_path: Path) -> None:
    path = encoder_file(tmp_path, "vit_mini", 64, patch_px=8)
    encoder = vit("vit_mini", 32)
    assert "positions of 8 x 8 patches interpolated to 4 x 4" in load_initial_weights(encoder, path)
    theirs = load_file(path)["pos_embed"][0, 1:].view(8, 8, 192)
    ours = encoder.backbone.pos_embed[0, 1:].view(4, 4, 192)
    middle = theirs.view(4, 2, 4, 2, 192).mean(dim=(1, 3))[1:3, 1:3]  # of each two by two patches
    torch.testing.assert_close(ours[1:3, 1:3], middle, atol=0.1, rtol=0.0)


def test_tables_of_another_window_are_refused(tmp_path: Path) -> None:
    source = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, depths=(1, 1, 1, 1), window_size=4)
    torch.save(source.state_dict(), tmp_path / "swin.pth")
    encoder = build_encoder(ModelConfig(arch="timm:swin_tiny_patch4_window7_224", dim=16), 224)
    with pytest.raises(ValueError, match=r"relative_position_bias_table is \(49, 3\) and not \(169, 3\)"):
        load_initial_weights(encoder, str(tmp_path / "swin.pth"))


def test_quantised_and_broken_weights_are_refused(tmp_path: Path) -> None:
    state = tiny_encoder(1).backbone.state_dict()
    torch.save({name: tensor.to(torch.int8) for name, tensor in state.items()}, tmp_path / "int8.pth")
    with pytest.raises(ValueError, match=r"backbone\.conv1\.0\.weight is int8"):
        load_initial_weights(tiny_encoder(), str(tmp_path / "int8.pth"))
    state["conv1.0.weight"] = state["conv1.0.weight"] * torch.nan
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match=r"not finite \(conv1\.0\.weight\)"):
        load_initial_weights(tiny_encoder(), str(tmp_path / "nan.pth"))


def saved(folder: Path, content: Any) -> str:
    torch.save(content, folder / "weights.pth")
    return str(folder / "weights.pth")


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        ("vit_tiny_patch16_224", "vit_small_patch16_224", r"cls_token is \(1, 1, 192\) and not \(1, 1, 384\)"),
        ("convnext_atto", "convnext_femto", "have another shape or type"),
        ("test_resnet", "test_resnet", "is int8"),
        ("convnext_atto", "convnext_atto", "is int8"),
    ],
)
def test_weights_of_which_nothing_fits_are_refused(theirs: str, ours: str, message: str, tmp_path: Path) -> None:
    state = timm.create_model(theirs, num_classes=0).state_dict()
    if theirs == ours:
        state = {name: tensor.to(torch.int8) for name, tensor in state.items()}
    encoder = build_encoder(ModelConfig(arch=f"timm:{ours}", dim=16))
    with pytest.raises(ValueError, match=message):
        load_initial_weights(encoder, saved(tmp_path, state))


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(())], nn.Parameter(torch.zeros(2, 2))])
def test_a_bare_tensor_is_no_weights(content: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no state dict"):
        load_initial_weights(tiny_encoder(), saved(tmp_path, content))


FORMS: dict[str, Any] = {
    "float8_e4m3fn": lambda t: t.to(torch.float8_e4m3fn),
    "float8_e5m2": lambda t: t.to(torch.float8_e5m2),
    "meta, without values": lambda t: t.to("meta"),
    "sparse_coo": lambda t: t.to_sparse(),
    "complex64": lambda t: t.to(torch.complex64),
}


@pytest.mark.parametrize("name", ["backbone.conv1.0.weight", "projector.2.weight"])
@pytest.mark.parametrize("form", FORMS)
def test_tensors_that_are_not_plain_numbers_are_named(form: str, name: str, tmp_path: Path) -> None:
    state = tiny_encoder(1).state_dict()
    encoder = tiny_encoder()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=rf"{name} is {form}"):
        load_initial_weights(encoder, saved(tmp_path, state | {name: FORMS[form](state[name])}))
    assert_same_weights(encoder, before)


@pytest.mark.parametrize(
    "extra",
    [
        {"lr": torch.tensor(0.1)},
        {"logit_scale": torch.ones(1), "logit_bias": torch.ones(1)},
        {"loss.margin": torch.tensor(0.2)},
    ],
)
def test_what_is_beside_a_whole_backbone_is_left_out(extra: dict[str, Tensor], tmp_path: Path) -> None:
    encoder, source = tiny_encoder(), tiny_encoder(1).backbone
    said = load_initial_weights(encoder, saved(tmp_path, source.state_dict() | extra))
    assert f"{len(extra)} tensors of a classifier or another network are left out" in said
    assert_same_weights(encoder.backbone, source.state_dict())


@pytest.mark.parametrize("extra", ["reg_token", "norm_pre.weight", "layer1.9.gain"])
def test_what_may_belong_to_the_network_is_not_left_out(extra: str, tmp_path: Path) -> None:
    number = torch.tensor(1.0) if "gain" in extra else torch.ones(4)
    with pytest.raises(ValueError, match=f"unknown to it.*{extra}"):
        load_initial_weights(tiny_encoder(), saved(tmp_path, tiny_encoder(1).backbone.state_dict() | {extra: number}))


def test_a_safetensors_file_cut_in_its_header_is_no_complete_one(tmp_path: Path) -> None:
    path, _ = write(tmp_path, "timm:test_resnet")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="no complete safetensors file"):
        load_initial_weights(tiny_encoder(), str(path))


class Silent(AbstractFileSystem):  # type: ignore[misc]
    """A place that never answers."""

    protocol = "silent"

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        time.sleep(60)
        raise OSError("no answer")


@pytest.mark.parametrize("path", ["http://127.0.0.1:9/x.pt", "https://nobody.invalid/x.pt", "silent://there/x.pt"])
def test_a_place_that_does_not_answer_is_named_within_seconds(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register_implementation("silent", Silent, clobber=True)
    monkeypatch.setattr("moco_ray.storage.checks._ANSWER_S", 1.0)
    start = time.monotonic()
    with pytest.raises((ValueError, OSError), match=path.split("/", 3)[2]):
        load_initial_weights(tiny_encoder(), path)
    assert time.monotonic() - start < 20
