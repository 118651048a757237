"""The network of a run, checked on the driver: what does not fit is an error before anything starts."""

from __future__ import annotations

import io
import logging
from typing import Any

import torch

from moco_ray.config import Config
from moco_ray.core.crops import build_without_weights
from moco_ray.core.encoders import Encoder, build_encoder
from moco_ray.core.global_batch_norm import check_batch_norms, has_global_batch_norm, use_global_batch_norm
from moco_ray.core.group_batch_norm import use_group_batch_norm
from moco_ray.storage.storage import resolve_storage_options
from moco_ray.storage.uris import protocol_of
from moco_ray.weights.initial_weights import load_initial_weights

log = logging.getLogger(__name__)


def network_without_weights(config: Config) -> Encoder:
    """The encoder on the meta device, after it has seen one BatchNorm group of crops.

    Raises:
        ValueError: There is no such network, or it cannot take the crops.
    """
    is_grouped = config.batch_norm == "group"
    num_images = config.optim.group_size if is_grouped else config.optim.global_batch_size
    return build_without_weights(config.model, config.views.crop_px, num_images=num_images)


def check_network(config: Config) -> None:
    """Refuse what cannot be trained.

    Raises:
        ValueError: There is no such network, it cannot take the crops, or the method cannot train it.
    """
    probe = network_without_weights(config)
    if config.batch_norm == "frozen":
        return
    if config.batch_norm == "group":
        use_group_batch_norm(probe, config.optim.group_size)
    else:
        use_global_batch_norm(probe)
    check_batch_norms(probe, f"model.arch {config.model.arch}")
    if config.run.micro_batch_groups is not None and has_global_batch_norm(probe.backbone):
        raise ValueError(
            f"run.micro-batch-groups {config.run.micro_batch_groups}: {config.method.name} normalises over the global "
            f"batch, and {config.model.arch} has BatchNorm in its backbone, so no part of a batch can be computed alone; "
            "drop the flag and use more workers, or a ViT, which needs BatchNorm in its heads only"
        )


def initial_weights(config: Config) -> bytes | None:
    """The weights to start from as a state dict of the encoder, if some were named, and say what was loaded.

    Raises:
        ValueError: They cannot be read, or do not fit.
    """
    if config.model.init is None:
        return None
    encoder, said = _initial_encoder(config, config.model.init)
    log.info(said)
    return _saved(encoder.state_dict())


def initial_backbone(config: Config) -> bytes | None:
    """The same of the backbone alone, for what has another head.

    Raises:
        ValueError: They cannot be read, or do not fit.
    """
    if config.model.init is None:
        return None
    encoder, said = _initial_encoder(config, config.model.init)
    log.info(said.removesuffix("; the projector starts fresh"))
    return _saved(encoder.backbone.state_dict())


def initial_options(config: Config) -> str | None:
    """Options for the weights that a run begins from: those of its storage or data, where these are at the same kind of place."""
    for uri, options in (
        (config.run.storage_path, config.run.storage_options),
        (config.data.uri, config.data.storage_options),
    ):
        if config.model.init and options is not None and protocol_of(uri) == protocol_of(config.model.init):
            return options
    return None


def _initial_encoder(config: Config, path: str) -> tuple[Encoder, str]:
    torch.manual_seed(config.run.seed)  # of what the file does not have
    encoder = build_encoder(config.model, config.views.crop_px)
    return encoder, load_initial_weights(encoder, path, options=resolve_storage_options(path, initial_options(config)))


def _saved(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
