"""Where an encoder comes from: its network, the images that it was trained on, and the run that trained it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from moco_ray.config import Config, from_json
from moco_ray.config.model import ModelConfig
from moco_ray.config.paths import as_uri
from moco_ray.config.views import ViewsConfig

if TYPE_CHECKING:
    from moco_ray.storage.storage import Storage, StorageOptions

Three = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is known of an encoder."""

    model: ModelConfig
    """The network, without model.init; its projector is the run's or the file's where that is known, else the default."""
    crop_px: int
    """Side of the images that it was trained on, in pixels."""
    mean: Three
    """Of red, green and blue in 0..1, subtracted from its images."""
    std: Three
    """Likewise, divided by."""
    step: int | None
    """Steps that it was trained for."""
    run: str | None
    """URI of the folder of the run that trained it, if the path is that, or lies directly in it."""
    config: Config | None
    """The configuration of that run."""


def origin_of(path: str, options: str | None = None) -> Origin | None:
    """What is known of the encoder that model.init names.

    Args:
        path: An encoder.safetensors, a run's folder, a checkpoint's, its state.pt, or what another program has saved.
        options: Access to it: a JSON object of fsspec options or a file with one. None: the AWS environment.

    Returns:
        What encoder files, checkpoints and the files of MoCo's authors say of themselves; None where a file says nothing.

    Raises:
        ValueError: There is no such file, or nothing that is safe to load is in it.
    """
    from moco_ray.storage.storage import resolve_storage_options  # here, as all that takes a while to import
    from moco_ray.weights.initial_weights import read_source

    path = str(as_uri("path", path))
    access = resolve_storage_options(path, options)
    return origin_of_source(read_source(path, access), path, access)


def origin_of_source(content: bytes, path: str, access: StorageOptions) -> Origin | None:
    """As `origin_of`, where the content has been read.

    Args:
        content: What `read_source` has returned.
        path: Where from.
        access: Access to it.
    """
    from moco_ray.storage.storage import Storage

    origin = _origin_of_content(content, path)
    if origin is None or origin.step is None:
        return origin
    run, config = _run_of(Storage.open(path, access))
    if config is None or _backbone(config.model) != _backbone(origin.model):
        return origin  # not of a run, or copied into the folder of another one
    return replace(origin, model=replace(config.model, init=None), run=run, config=config)


def _origin_of_content(content: bytes, path: str) -> Origin | None:
    """Without its run."""
    from moco_ray.weights.encoder_file import info_of, is_encoder
    from moco_ray.weights.files import read_tree, tensors_in
    from moco_ray.weights.official import CROP_PX, official_model

    if is_encoder(content):
        info = info_of(content, path)
        model = ModelConfig(arch=info["arch"], stem=info["stem"], patch_px=int(info.get("patch_px", 16)))
        views = {name: info[name] for name in ("crop_px", "mean", "std")}
        return _origin(model, views, int(info["step"]), None)
    tree = read_tree(content, path)
    if isinstance(tree, dict) and isinstance(tree.get("config"), str) and {"method", "step"} <= tree.keys():
        return _of_state(tree)
    official = official_model(tree, tensors_in(tree))
    if official is None:
        return None
    views = {name: getattr(ViewsConfig(), name) for name in ("mean", "std")}
    return _origin(official, {"crop_px": CROP_PX, **views}, None, None)


def _of_state(state: dict[str, Any]) -> Origin:
    """Of a checkpoint's state; its configuration may be of a version that had other fields."""
    given = json.loads(state["config"])
    names = {item.name for item in fields(ModelConfig)}
    model = ModelConfig(**{name: value for name, value in given["model"].items() if name in names})
    config: Config | None = None
    with contextlib.suppress(ValueError):
        config = from_json(state["config"])
    return _origin(replace(model, init=None), given["views"], int(state["step"]), config)


def _origin(model: ModelConfig, views: dict[str, Any], step: int | None, config: Config | None) -> Origin:
    return Origin(
        model=model,
        crop_px=int(views["crop_px"]),
        mean=_three(views["mean"]),
        std=_three(views["std"]),
        step=step,
        run=None,
        config=config,
    )


def _three(values: Any) -> Three:
    red, green, blue = map(float, values)
    return red, green, blue


def _run_of(storage: Storage) -> tuple[str | None, Config | None]:
    """URI and configuration of the run whose folder this is, or that this lies directly in."""
    from moco_ray.run_folder.begin import CONFIG
    from moco_ray.run_folder.checkpoint_files import STATE

    place = storage.root
    for _ in range(3 if place.endswith(f"/{STATE}") else 2):  # its checkpoint's folder lies between
        folder = replace(storage, root=place)
        with contextlib.suppress(ValueError):  # another program's config.json, or one that may not be read
            if folder.is_file(folder.join(CONFIG)):
                return folder.uri(place), from_json(folder.read_bytes(folder.join(CONFIG)).decode())
        place = place.rpartition("/")[0]
        if not place or place.endswith(("/", ":")):
            break
    return None, None


def _backbone(model: ModelConfig) -> tuple[str, str, int]:
    return model.arch, model.stem, model.patch_px
