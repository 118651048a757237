"""Momentum Contrast (MoCo) self-supervised pretraining on elastic Ray clusters."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moco_ray.cli.export import export_run
    from moco_ray.cli.presets import load_preset
    from moco_ray.config import Config
    from moco_ray.driver.run import RunResult, pretrain
    from moco_ray.weights.classifier_file import classifier_info, load_classifier
    from moco_ray.weights.detector_file import load_detector
    from moco_ray.weights.encoder_file import encoder_info, load_encoder

__version__ = "0.1.0"

__all__ = [
    "Config",
    "RunResult",
    "classifier_info",
    "encoder_info",
    "export_run",
    "load_classifier",
    "load_detector",
    "load_encoder",
    "load_preset",
    "pretrain",
]


_HOME = {
    "Config": "moco_ray.config",
    "RunResult": "moco_ray.driver.run",
    "classifier_info": "moco_ray.weights.classifier_file",
    "encoder_info": "moco_ray.weights.encoder_file",
    "export_run": "moco_ray.cli.export",
    "load_classifier": "moco_ray.weights.classifier_file",
    "load_detector": "moco_ray.weights.detector_file",
    "load_encoder": "moco_ray.weights.encoder_file",
    "load_preset": "moco_ray.cli.presets",
    "pretrain": "moco_ray.driver.run",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: data tasks start faster, and `core` needs no more than torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'moco_ray' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
