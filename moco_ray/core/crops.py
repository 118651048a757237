"""Whether a network can be trained on images of a size, found by trying before anything starts."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from moco_ray.config.model import TINY, ModelConfig
from moco_ray.core.encoders import Encoder, build_encoder, feature_dim

_USUAL_PX = (32, 64, 96, 128, 160, 192, 224, 240, 256, 288, 299, 320, 331, 384, 448, 512)
_TRIES = 24


def build_without_weights(config: ModelConfig, image_px: int, *, num_images: int) -> Encoder:
    """Build an encoder on the meta device and let it see images once, as in training.

    Args:
        config: What to build.
        image_px: Side of the images (views.crop_px).
        num_images: How many BatchNorm normalises over at least.

    Raises:
        ValueError: There is no such network, it cannot take such images, or it does not return features (N, d).
    """
    with torch.device("meta"):  # layers without weights: it costs milliseconds and draws nothing
        encoder = build_encoder(config, image_px)
    # The tiny network computes with numbers sooner than torch imports what it needs to do without.
    error = None if config.arch == TINY else _failure(encoder, image_px, num_images)
    if config.arch == TINY or (error is not None and "meta" in str(error)):  # it needs numbers: some tell
        with torch.random.fork_rng(devices=[]):
            error = _failure(build_encoder(config, image_px), image_px, min(num_images, 2))
    if isinstance(error, _NoFeaturesError):
        raise ValueError(f"model.arch {config.arch} {error}; use another model.arch")
    if error is not None:
        raise ValueError(_advice(config, encoder.backbone, image_px, num_images, error)) from error
    return encoder


class _NoFeaturesError(Exception):
    pass


def _failure(encoder: Encoder, image_px: int, num_images: int) -> Exception | None:
    """How a forward pass ends that does not end well, on the device of the encoder."""
    device = next(encoder.parameters()).device
    try:
        with device, torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers that come out empty
            features = encoder.backbone.train()(torch.zeros(num_images, 3, image_px, image_px))
            _check_features(features, num_images, feature_dim(encoder.backbone))
            encoder.projector.train()(features)
    except Exception as error:  # networks fail in as many ways as there are
        return error
    return None


def _check_features(features: object, num_images: int, dim: int) -> None:
    if not isinstance(features, Tensor):
        raise _NoFeaturesError(f"returns a {type(features).__name__}, and no tensor of features (N, d)")
    if features.dim() != 2 or len(features) != num_images:
        raise _NoFeaturesError(
            f"returns a tensor {tuple(features.shape)} for {num_images} images, and no features (N, d)"
        )
    if features.shape[1] != dim:
        raise _NoFeaturesError(f"says that its features have {dim} numbers, and returns {features.shape[1]}")


def _advice(config: ModelConfig, backbone: nn.Module, image_px: int, num_images: int, error: Exception) -> str:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    fitting = _fitting_px(config, backbone, image_px, num_images)
    ways = [f"--views.crop-px {fitting}"] if fitting else []
    ways += ["fewer optim.bn-groups"] if num_images == 1 else []
    return (
        f"model.arch {config.arch} cannot take images of views.crop-px {image_px} ({said}); "
        f"use {', '.join([*ways, 'another model.arch'])}"
    ).replace(", another", " or another")


def _fitting_px(config: ModelConfig, backbone: nn.Module, image_px: int, num_images: int) -> int | None:
    """The nearest size that the network takes, found by trying; at last the size that timm names for it."""
    multiples = {max(1, image_px // step + more) * step for step in (14, 16, 28, 32, 56, 64) for more in (0, 1, 2)}
    candidates = sorted(({*multiples, *_USUAL_PX}) - {image_px}, key=lambda px: abs(px - image_px))[:_TRIES]
    named = getattr(backbone, "pretrained_cfg", {}).get("input_size")
    for px in [*candidates, *([int(named[-1])] if named else [])]:
        try:
            with torch.device("meta"):
                encoder = build_encoder(config, px)
        except ValueError:  # patches that do not fill it
            continue
        if _failure(encoder, px, num_images) is None:
            return px
    return None
