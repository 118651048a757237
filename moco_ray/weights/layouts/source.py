"""Read the encoder that is to be written: of a run, a checkpoint, an encoder file, or another program's file."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import asdict, dataclass, fields
from typing import Any

from moco_ray.config.model import ModelConfig
from moco_ray.config.views import ViewsConfig
from moco_ray.core.encoders import build_encoder
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.storage.storage import Storage, resolve_storage_options
from moco_ray.weights.encoder_file import (
    backbone_of,
    encoder_bytes,
    info_of,
    is_encoder,
    state_encoder,
    with_metadata,
    written_anew,
)
from moco_ray.weights.initial_weights import load_initial_weights, read_source
from moco_ray.weights.layouts.layout import Source
from moco_ray.weights.origin import Origin, Three, origin_of_source
from moco_ray.weights.saved_state import read_state

log = logging.getLogger(__name__)
_OTHER_WORDS = {
    "model.init ": "",
    "(backbone.": "(",
    " backbone.": " ",
    "model.arch": "--arch",
    "model.stem": "--stem",
    "model.patch-px": "--patch-px",
    "views.crop-px": "--crop-px",
}
_EVAL = "eval/"


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a file of another program does not say of its encoder; None: the default, or what the file does say."""

    arch: str | None = None
    """As model.arch."""
    stem: str | None = None
    """As model.stem."""
    patch_px: int | None = None
    """As model.patch-px."""
    crop_px: int | None = None
    """Side of the images, 224."""
    mean: Three | None = None
    """Of red, green and blue in 0..1, ImageNet's."""
    std: Three | None = None
    """Likewise."""


def read_encoder_source(path: str, storage_options: str | None, told: Told) -> Source:
    """Read an encoder, whatever kind of file it is in.

    Args:
        path: A run's folder, a checkpoint's, an encoder.safetensors, or a file of another program.
        storage_options: Access to it.
        told: What the file of another program does not say.

    Raises:
        ValueError: There is no such file, it is not safe to load or another network's, or something is missing or too
            much in `told`.
    """
    access = resolve_storage_options(path, storage_options)
    content = read_source(path, access)
    origin = origin_of_source(content, path, access)
    if origin is None or origin.step is None:
        content = _imported(content, path, storage_options, origin, told)
    else:
        if given := [item.name for item in fields(told) if getattr(told, item.name) is not None]:
            names = ", ".join("--" + name.replace("_", "-") for name in given)
            raise ValueError(f"{path} says itself what its encoder is; drop {names}")
        if not is_encoder(content):
            content = state_encoder(read_state(content, path))
        content = with_metadata(content, _of_run(origin, storage_options))
    backbone = backbone_of(content, path).float()
    content = written_anew(backbone, content)  # whose recipe is ours: a file's is never run
    info = info_of(content, path)
    model = ModelConfig(arch=info["arch"], stem=info["stem"], patch_px=int(info.get("patch_px", 16)))
    return Source(backbone=backbone, model=model, info=info, content=content)


def _imported(content: bytes, path: str, storage_options: str | None, origin: Origin | None, told: Told) -> bytes:
    """Our encoder file of what another program has saved."""
    if told.arch is None and origin is None:
        raise ValueError(f"{path} does not say what network it is of; name it with --arch, such as --arch resnet50")
    known = ModelConfig() if origin is None or told.arch not in (None, origin.model.arch) else origin.model
    given = {name: value for name, value in asdict(told).items() if value is not None}
    views = {name: given.pop(name, getattr(ViewsConfig(), name)) for name in ("crop_px", "mean", "std")}
    views = asdict(ViewsConfig(**views))  # which checks them
    model = ModelConfig(**{"arch": known.arch, "stem": known.stem, "patch_px": known.patch_px, **given})
    try:
        encoder = build_encoder(model, views["crop_px"])
        said = load_initial_weights(encoder, path, options=resolve_storage_options(path, storage_options))
    except ValueError as error:
        raise ValueError(_in_own_words(str(error))) from error
    log.info(said.replace("initial weights", model.arch, 1).replace("; the projector starts fresh", ""))
    metadata = {
        **{"arch": model.arch, "stem": model.stem, "patch_px": str(model.patch_px), "step": "0"},
        **{name: json.dumps(views[name]) for name in ("crop_px", "mean", "std")},
        "imported_from": path.split("?")[0].rstrip("/").rsplit("/", 1)[-1],
    }
    return encoder_bytes(encoder.backbone.eval(), metadata)


def _of_run(origin: Origin, storage_options: str | None) -> dict[str, str]:
    """More metadata, of the run that trained an encoder."""
    if origin.run is None or origin.config is None:
        return {}
    metadata = {"preset": origin.config.preset, "task": origin.config.task}
    if origin.config.task == "pretraining":
        metadata["method"] = origin.config.method.name
    storage = Storage.open(origin.run, resolve_storage_options(origin.run, storage_options))
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(ValueError):  # a damaged line is no reason to keep the weights
        lines = [line for line in stored_lines(storage, "eval.jsonl") if line.get("step", 0) <= (origin.step or 0)]
    if lines:
        metrics = {name.removeprefix(_EVAL): value for name, value in lines[-1].items() if name.startswith(_EVAL)}
        metadata["metrics"] = json.dumps(metrics)
    return metadata


def _in_own_words(message: str) -> str:
    """A message about model.init, for a command that has other flags."""
    for theirs, ours in _OTHER_WORDS.items():
        message = message.replace(theirs, ours)
    return message.replace("model.init: ", "")
