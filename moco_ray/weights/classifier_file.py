"""Files of classifiers: a backbone, a linear head, and the names of what it tells apart."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save as save_safetensors
from torch import nn

from moco_ray.config import Config
from moco_ray.config.model import ModelConfig
from moco_ray.core.classifier import with_head
from moco_ray.core.encoders import Encoder, build_backbone
from moco_ray.weights.safetensors_file import read_own, tensors_of

NAME = "classifier.safetensors"
_FORMAT = "moco_ray classifier 1"
_JSON = ("classes", "model", "crop_px", "mean", "std", "has_several")
_ENCODER = "query_encoder."


def state_network(state: Mapping[str, Any], config: Config) -> Encoder:
    """The network of a checkpoint of a classifier, with plain BatchNorm, in float32, in evaluation mode, on the CPU."""
    own = {name.removeprefix(_ENCODER): value for name, value in state["method"].items() if name.startswith(_ENCODER)}
    backbone = build_backbone(config.model, config.views.crop_px)
    network = with_head(backbone, len(own["projector.bias"]), is_frozen=False)
    network.load_state_dict(own)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


def classifier_bytes(network: Encoder, config: Config, classes: tuple[str, ...]) -> bytes:
    """A classifier as safetensors: keys backbone.* as torchvision or timm has them, head.weight and head.bias.

    Args:
        network: Of `state_network`.
        config: Of its run.
        classes: Names of its outputs.
    """
    state = {_renamed(name, "projector.", "head."): value.contiguous() for name, value in network.state_dict().items()}
    model = {name: getattr(config.model, name) for name in ("arch", "stem", "patch_px")}
    values = {
        "classes": classes,
        "model": model,
        "crop_px": config.views.crop_px,
        "mean": config.views.mean,
        "std": config.views.std,
        "has_several": config.data.target_columns is not None,
    }
    return save_safetensors(state, {"format": _FORMAT, **{name: json.dumps(value) for name, value in values.items()}})


def classifier_info(path: str | os.PathLike[str], storage_options: str | None = None) -> dict[str, Any]:
    """What is known of a classifier: classes, model, crop_px, mean, std, and has_several (labels an image).

    Args:
        path: A classifier.safetensors, or the folder of a run that has left one; local or an fsspec URL.
        storage_options: Access to it: a JSON object of fsspec options or a file with one. None: the AWS environment.

    Raises:
        ValueError: There is no such file, or it is no classifier of moco_ray.
    """
    return _read(path, storage_options)[1]


def load_classifier(path: str | os.PathLike[str], storage_options: str | None = None) -> nn.Module:
    """Load a classifier: images (N, 3, H, W), standardised as `classifier_info` says, -> logits (N, classes).

    Args:
        path: As for `classifier_info`.
        storage_options: As for `classifier_info`.

    Raises:
        ValueError: There is no such file, or it is no classifier of moco_ray.
    """
    content, info = _read(path, storage_options)
    tensors = tensors_of(content, str(path))
    backbone = build_backbone(ModelConfig(**info["model"]), info["crop_px"])
    network = with_head(backbone, len(info["classes"]), is_frozen=False)
    network.load_state_dict({_renamed(name, "head.", "projector."): tensor for name, tensor in tensors.items()})
    return network.eval()


def _renamed(name: str, old: str, new: str) -> str:
    return new + name.removeprefix(old) if name.startswith(old) else name


def _read(path: str | os.PathLike[str], storage_options: str | None) -> tuple[bytes, dict[str, Any]]:
    _, content, metadata = read_own(path, NAME, _FORMAT, storage_options)
    return content, {name: json.loads(metadata[name]) for name in _JSON}
