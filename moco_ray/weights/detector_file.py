"""Files of detectors: a network, the names of what it finds, and how images come to it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as save_safetensors

from moco_ray.config import Config, from_json, to_json
from moco_ray.weights.safetensors_file import read_own, tensors_of

if TYPE_CHECKING:
    from moco_ray.core.detection.detector import Detector

NAME = "detector.safetensors"
_FORMAT = "moco_ray detector 1"


def state_detector(state: Mapping[str, Any], config: Config, num_classes: int) -> Detector:
    """The detector of a checkpoint, in float32, in evaluation mode, on the CPU."""
    from moco_ray.core.detection.detector import build_detector  # here, because torchvision takes a second to import

    detector = build_detector(config.detection, config.model, num_classes)
    detector.load_state_dict(state["method"])
    detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return detector.eval()


def detector_bytes(state: Mapping[str, Any], config: Config, classes: tuple[str, ...]) -> bytes:
    """The detector of a checkpoint as safetensors, keys as in torchvision but for the boxes' head of "c4".

    Args:
        state: Of the checkpoint.
        config: Of its run.
        classes: Names of what it finds.
    """
    tensors = state_detector(state, config, len(classes)).state_dict()
    metadata = {"format": _FORMAT, "config": to_json(config), "classes": json.dumps(classes)}
    return save_safetensors({name: value.contiguous() for name, value in tensors.items()}, metadata)


def load_detector(
    path: str | os.PathLike[str], storage_options: str | None = None
) -> tuple[Detector, tuple[str, ...], Config]:
    """Load a detector; evaluate/detections.py `find_objects` looks at images with it.

    Args:
        path: A detector.safetensors, or the folder of a run that has left one; local or an fsspec URL.
        storage_options: Access to it: a JSON object of fsspec options or a file with one. None: the AWS environment.

    Returns:
        The detector, the names of its classes (its labels count from 1), and the configuration of its run.

    Raises:
        ValueError: There is no such file, or it is no detector of moco_ray.
    """
    uri, content, metadata = read_own(path, NAME, _FORMAT, storage_options)
    config, classes = from_json(metadata["config"], uri), tuple(json.loads(metadata["classes"]))
    return state_detector({"method": tensors_of(content, uri)}, config, len(classes)), classes, config
