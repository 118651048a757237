"""Encoder files: written for other tools, read back for use or as initial weights."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from moco_ray.core.encoders import Encoder, build_backbone
from moco_ray.data.storage import Storage, resolve_storage_options

_NAME = "encoder.safetensors"
_FORMAT = "moco_ray encoder 1"


def encoder_bytes(backbone: nn.Module, metadata: Mapping[str, str]) -> bytes:
    """Serialise a backbone as safetensors, with torchvision's or timm's keys and no classifier.

    Args:
        backbone: A backbone of `build_backbone`.
        metadata: What `encoder_info` returns: arch, stem, crop_px, mean, std, …
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    return save_safetensors(state, {"format": _FORMAT, **metadata})


def load_encoder(path: str) -> nn.Module:
    """Load a pretrained backbone.

    Args:
        path: An encoder.safetensors or the folder of a run, local or an fsspec URL such as s3://bucket/runs/name.

    Returns:
        A torchvision or timm module in evaluation mode: images (N, 3, H, W), standardised with the mean and std
        of `encoder_info(path)`, -> features (N, d).

    Raises:
        ValueError: There is no such file, or it is no encoder of moco_ray.
    """
    content = _read(path)
    info = _info(content, path)
    backbone = build_backbone(info["arch"], info["stem"])
    backbone.load_state_dict(load_safetensors(content))
    return backbone.eval()


def encoder_info(path: str) -> dict[str, Any]:
    """What is known of an encoder file: arch, stem, crop_px, mean, std and step.

    Raises:
        ValueError: There is no such file, or it is no encoder of moco_ray.
    """
    return _info(_read(path), path)


def load_initial_weights(encoder: Encoder, path: str) -> str:
    """Load initial weights into a query encoder, from whatever kind of file they are in.

    Args:
        encoder: Changed in place.
        path: An encoder.safetensors or a torchvision state dict (backbone only), or a full encoder with keys
            backbone.* and projector.*; as .safetensors, or as a file of torch.save (read with weights_only=True).

    Returns:
        A sentence that says what was loaded.

    Raises:
        ValueError: There is no such file, it is no state dict, or its keys or shapes do not fit.
    """
    state = _read_state(path)
    own = encoder.state_dict()
    if not any(name.startswith("backbone.") for name in state):
        dropped = [name for name in state if name.startswith(("fc.", "head.", "classifier."))]
        state = {f"backbone.{name}": tensor for name, tensor in state.items() if name not in dropped}
    unknown = sorted(set(state) - set(own))
    if unknown or not state:
        raise ValueError(
            f"model.init {path} does not fit model.arch: {len(unknown)} of {len(state)} keys are unknown, "
            f"{', '.join(name.removeprefix('backbone.') for name in unknown[:4])} among them"
        )
    wrong = [name for name in state if state[name].shape != own[name].shape]
    if wrong:
        shapes = [f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}" for name in wrong[:4]]
        raise ValueError(f"model.init {path} does not fit model.arch: {', '.join(shapes)}")
    missing = sorted(set(own) - set(state) - {name for name in own if name.endswith("num_batches_tracked")})
    if any(name.startswith("backbone.") for name in missing):
        raise ValueError(
            f"model.init {path} lacks {len(missing)} keys of model.arch, {', '.join(missing[:4])} among them"
        )
    encoder.load_state_dict(state, strict=False)
    fresh = " (the projector starts fresh)" if missing else ""
    return f"initial weights: {len(state)} tensors from {path}{fresh}"


def _read_state(path: str) -> dict[str, Tensor]:
    options = resolve_storage_options(path, None)
    storage = Storage.open(path, options)
    try:
        content = storage.read_bytes(storage.root)
    except ValueError as error:
        raise ValueError(f"model.init: {error}") from error
    if path.endswith(".safetensors"):
        return dict(load_safetensors(content))
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"model.init {path} is no file of weights that is safe to load: {error}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"model.init {path} holds no state dict")
    return state


def _read(path: str) -> bytes:
    storage = Storage.open(path, resolve_storage_options(path, None))
    return storage.read_bytes(storage.root if path.endswith(".safetensors") else storage.join(_NAME))


def _info(content: bytes, path: str) -> dict[str, Any]:
    length = int.from_bytes(content[:8], "little")
    try:
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except ValueError as error:
        raise ValueError(f"{path} is no safetensors file") from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{path} was not written by moco_ray; load it with torchvision or timm")
    numbers = {"crop_px": int, "step": int, "mean": json.loads, "std": json.loads}
    return {name: numbers.get(name, str)(value) for name, value in metadata.items()}
