"""The encoder that is used, and the configuration that it asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from moco_ray.config import Config
from moco_ray.core.encoders import digest_of
from moco_ray.weights.encoder_file import encoder_info, load_encoder


@dataclass(frozen=True, kw_only=True)
class LoadedEncoder:
    """A pretrained backbone."""

    backbone: nn.Module
    """On the CPU, in evaluation mode."""
    about: dict[str, Any]
    """Where it is from, what it is, and a digest of its weights."""


def load(config: Config) -> tuple[Config, LoadedEncoder]:
    """Load the encoder of model.init; the configuration with its network, crop and standardisation.

    Raises:
        ValueError: There is none.
    """
    path = config.model.init
    if not path:
        raise ValueError("model.init is missing; name an encoder or the folder of a run: --model.init runs/NAME")
    info = encoder_info(path, config.run.storage_options)
    backbone = load_encoder(path, config.run.storage_options)
    model = replace(config.model, arch=info["arch"], stem=info["stem"], patch_px=info.get("patch_px", 16))
    views = replace(config.views, crop_px=info["crop_px"], mean=tuple(info["mean"]), std=tuple(info["std"]))
    about = {"path": path, "digest": digest_of(backbone.state_dict())}
    about |= {name: info[name] for name in ("arch", "step", "feature_dim", "crop_px") if name in info}
    return replace(config, model=model, views=views), LoadedEncoder(backbone=backbone, about=about)
