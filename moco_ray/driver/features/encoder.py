"""The encoder that is used, and the images of the run that trained it."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from moco_ray.config import Config
from moco_ray.core.encoders import build_backbone, digest_of, feature_dim
from moco_ray.data.manifest import Images
from moco_ray.driver.images.listing import list_images
from moco_ray.run_folder.begin import stored_images
from moco_ray.storage.storage import Storage, resolve_storage_options
from moco_ray.storage.uris import protocol_of, without_secrets
from moco_ray.tasks.network import initial_backbone
from moco_ray.weights.origin import Origin, origin_of

log = logging.getLogger(__name__)

_SAME_IMAGES = ("uri", "image_column", "label_column", "classes", "exclude")


@dataclass(frozen=True, kw_only=True)
class LoadedEncoder:
    """A pretrained backbone."""

    backbone: nn.Module
    """On the CPU, in evaluation mode."""
    origin: Origin | None
    """What is known of where it comes from."""
    about: dict[str, Any]
    """Where it lies, what it is, and a digest of its weights, for people and programs."""


def load(config: Config) -> LoadedEncoder:
    """Load the encoder of model.init.

    Raises:
        ValueError: There is none, or it is of another network than the configuration's.
    """
    path = config.model.init
    if not path:
        raise ValueError("model.init is missing; name the folder of a run or a file of weights: --model.init runs/NAME")
    state = initial_backbone(config)
    assert state is not None
    backbone = build_backbone(config.model, config.views.crop_px)
    backbone.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
    origin = origin_of(path, _access(config, path))
    about = {
        "path": without_secrets(path),
        "digest": digest_of(backbone.state_dict()),
        "arch": config.model.arch,
        "step": origin.step if origin else None,
        "feature_dim": feature_dim(backbone),
        "crop_px": config.views.crop_px,
        "mean": config.views.mean,
        "std": config.views.std,
    }
    return LoadedEncoder(backbone=backbone.eval(), origin=origin, about=about)


def images_for(config: Config, origin: Origin | None) -> Images:
    """The images to evaluate an encoder on: those of its run, with what that held out, where they are asked for.

    Raises:
        ValueError: There are none.
    """
    run = _run_with_these_images(config, origin)
    if run is None:
        return list_images(config)
    images = stored_images(run_storage(config, run))
    log.info(f"images as {run} has listed them, with what it held out: {len(images.train):,}")
    return images


def run_storage(config: Config, run: str) -> Storage:
    """The folder of the run that trained the encoder."""
    return Storage.open(run, resolve_storage_options(run, _access(config, run)))


def _run_with_these_images(config: Config, origin: Origin | None) -> str | None:
    """The run that has listed the images that are asked for; None where others are asked for."""
    if origin is None or origin.run is None or origin.config is None:
        return None
    theirs = origin.config
    is_same = all(getattr(config.data, name) == getattr(theirs.data, name) for name in _SAME_IMAGES)
    return origin.run if is_same and config.eval.uri == theirs.eval.uri else None


def _access(config: Config, path: str) -> str | None:
    """Storage options that are for a place: those of a place of the same kind."""
    for uri, options in (
        (config.run.storage_path, config.run.storage_options),
        (config.data.uri, config.data.storage_options),
    ):
        if options is not None and protocol_of(uri) == protocol_of(path):
            return options
    return None
