"""Encoder files: written for other tools, read back for use or as initial weights."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from moco_ray.config.model import ModelConfig
from moco_ray.core.encoders import Encoder, build_backbone, feature_dim
from moco_ray.data.storage import Storage, resolve_storage_options

_NAME = "encoder.safetensors"
_FORMAT = "moco_ray encoder 1"
_NUMBERS = frozenset({"crop_px", "patch_px", "step", "feature_dim", "mean", "std"})
# What precedes a backbone's keys in official checkpoints of MoCo v1 and v2, of v3, and of DistributedDataParallel.
_PREFIXES = ("module.encoder_q.", "module.base_encoder.", "module.")
_CLASSIFIERS = ("fc.", "head.", "classifier.")


def encoder_bytes(backbone: nn.Module, metadata: Mapping[str, str]) -> bytes:
    """Serialise a backbone as safetensors, with torchvision's or timm's keys and no classifier.

    Args:
        backbone: A backbone of `build_backbone`; a GroupBatchNorm in it is written as the BatchNorm it stands for.
        metadata: What `encoder_info` returns, as strings: arch, stem, patch_px, crop_px, mean, std, step.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    return save_safetensors(state, {"format": _FORMAT, "feature_dim": str(feature_dim(backbone)), **metadata})


def load_encoder(path: str, storage_options: str | None = None) -> nn.Module:
    """Load a pretrained backbone.

    Args:
        path: An encoder.safetensors or the folder of a run, local or an fsspec URL such as s3://bucket/runs/name.
        storage_options: Access to it: a JSON object of fsspec options or a file with one. None: the AWS environment.

    Returns:
        A torchvision or timm module in evaluation mode: images (N, 3, H, W), standardised with the mean and std
        of `encoder_info(path)`, -> features (N, d).

    Raises:
        ValueError: There is no such file, or it is no encoder of moco_ray.
    """
    content = _read(path, storage_options)
    info = _info(content, path)
    model = ModelConfig(arch=info["arch"], stem=info["stem"], patch_px=info.get("patch_px", 16))
    backbone = build_backbone(model, info["crop_px"])
    try:
        backbone.load_state_dict(_safetensors(content, path))
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold the weights of its architecture {info['arch']}: {error}") from error
    return backbone.eval()


def encoder_info(path: str, storage_options: str | None = None) -> dict[str, Any]:
    """What is known of an encoder file.

    Args:
        path: As for `load_encoder`.
        storage_options: As for `load_encoder`.

    Returns:
        arch, stem and patch_px (as in model.arch, model.stem and model.patch_px), crop_px (side of the images it was trained on), mean and std
        (lists of three numbers, of red, green and blue in 0..1), step (of training), feature_dim and format.

    Raises:
        ValueError: There is no such file, or it is no encoder of moco_ray.
    """
    return _info(_read(path, storage_options), path)


def load_initial_weights(encoder: Encoder, path: str) -> str:
    """Load initial weights into a query encoder, from whatever kind of file they are in.

    Args:
        encoder: Changed in place, or not at all.
        path: An encoder.safetensors, a torchvision or timm state dict or an official MoCo checkpoint (backbone only),
            or a full encoder with keys backbone.* and projector.*; as .safetensors, or as a file of torch.save (read
            with weights_only=True).

    Returns:
        A sentence that says what was loaded and what was not.

    Raises:
        ValueError: There is no such file, it is no state dict, or its keys or shapes do not fit.
    """
    state, num_dropped = _encoder_keys(_read_state(path))
    own = encoder.state_dict()
    unknown = sorted(set(state) - set(own))
    if unknown or not state:
        raise ValueError(
            f"model.init {path} does not fit the model: {len(unknown)} of {len(state)} keys are unknown to it"
            f"{_first(unknown)}; check model.arch and model.projector"
        )
    wrong = [name for name in state if state[name].shape != own[name].shape]
    if wrong:
        shapes = [f"{name} is {tuple(state[name].shape)} and not {tuple(own[name].shape)}" for name in wrong]
        raise ValueError(
            f"model.init {path} does not fit the model: {len(wrong)} tensors have another shape{_first(shapes)}; "
            "check model.arch, model.stem and model.dim"
        )
    # Old files lack the counters, and nothing that is computed depends on them.
    missing = sorted(name for name in set(own) - set(state) if not name.endswith("num_batches_tracked"))
    no_backbone = [name for name in missing if name.startswith("backbone.")]
    if no_backbone:
        raise ValueError(
            f"model.init {path} lacks {len(no_backbone)} tensors of the backbone{_first(no_backbone)}; check model.arch"
        )
    encoder.load_state_dict(state, strict=False)
    dropped = f"; {num_dropped} tensors of a classifier or another network are left out" if num_dropped else ""
    fresh = "; the projector starts fresh" if missing else ""
    return f"initial weights: {len(state)} tensors from {path}{dropped}{fresh}"


def _encoder_keys(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Rename to the keys of an Encoder; returns also how many tensors of something else were left out."""
    if any(name.startswith("backbone.") for name in state):
        return state, 0
    prefix = next((prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in state)), "")
    inner = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    kept = {f"backbone.{name}": tensor for name, tensor in inner.items() if not name.startswith(_CLASSIFIERS)}
    return kept, len(state) - len(kept)


def _first(names: list[str]) -> str:
    """Show the first few of a list."""
    if not names:
        return ""
    return f" ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"


def _read_state(path: str) -> dict[str, Tensor]:
    storage = Storage.open(path, resolve_storage_options(path, None))
    try:
        content = storage.read_bytes(storage.root)
    except ValueError as error:
        raise ValueError(f"model.init: {error}") from error
    if path.endswith(".safetensors"):
        return _safetensors(content, path)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler fails in as many ways as there are files
        raise ValueError(f"model.init {path} is no file of weights that is safe to load: {error}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"model.init {path} holds no state dict; save one with torch.save(model.state_dict(), path)")
    return state


def _safetensors(content: bytes, path: str) -> dict[str, Tensor]:
    try:
        return dict(load_safetensors(content))
    except SafetensorError as error:
        raise ValueError(f"{path} is no complete safetensors file: {error}") from error


def _read(path: str, storage_options: str | None = None) -> bytes:
    storage = Storage.open(path, resolve_storage_options(path, storage_options))
    return storage.read_bytes(storage.root if path.endswith(".safetensors") else storage.join(_NAME))


def _info(content: bytes, path: str) -> dict[str, Any]:
    # A safetensors file begins with the length of its header (8 bytes, little-endian) and the header, a JSON object.
    length = int.from_bytes(content[:8], "little")
    try:
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        is_ours = metadata["format"] == _FORMAT
    except (ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise ValueError(f"{path} was not written by moco_ray; load it with safetensors, torchvision or timm")
    return {name: json.loads(value) if name in _NUMBERS else value for name, value in metadata.items()}
