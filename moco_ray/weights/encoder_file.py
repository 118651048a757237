"""Encoder files: written for other tools, read back for use; and the encoders of runs that are not finished."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from safetensors.torch import save as save_safetensors
from torch import nn

from moco_ray.config.model import ModelConfig
from moco_ray.config.paths import as_uri
from moco_ray.core.encoders import build_backbone, feature_dim
from moco_ray.core.recipe import different_numbers, network_numbers, probe, recipe, same_probe
from moco_ray.storage.storage import Storage, resolve_storage_options
from moco_ray.weights.safetensors_file import check_kind, is_cut, metadata_of, tensors_of
from moco_ray.weights.saved_state import checkpoint_state, file_content, is_checkpoint, newest_state, read_state

NAME = "encoder.safetensors"
_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
_FORMAT = "moco_ray encoder 1"
_FOUND_HERE = frozenset(
    {"format", "feature_dim", "numbers", "probe", "recipe"}
    | {"library", "library_version", "library_name", "library_arguments"}
)
_JSON = frozenset(
    {"crop_px", "patch_px", "step", "feature_dim", "mean", "std", "library_arguments", "numbers", "probe", "metrics"}
)


def encoder_bytes(backbone: nn.Module, metadata: Mapping[str, str]) -> bytes:
    """Serialise a backbone as safetensors, with torchvision's or timm's keys and no classifier.

    Args:
        backbone: A backbone of `build_backbone`; a GroupBatchNorm in it is written as the BatchNorm it stands for.
        metadata: What `encoder_info` returns, as strings: arch, stem, patch_px, crop_px, mean, std, step. The rest is
            found here.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    crop_px = int(metadata["crop_px"])
    origin = recipe(_model(metadata), crop_px)
    found = {
        "format": _FORMAT,
        "feature_dim": str(feature_dim(backbone)),
        "library": origin.library,
        "library_version": origin.version,
        "library_name": origin.name,
        "library_arguments": json.dumps(origin.arguments),
        "recipe": origin.code,
        "numbers": json.dumps(network_numbers(backbone)),
        "probe": json.dumps(probe(backbone, crop_px)),
    }
    return save_safetensors(state, {**found, **metadata})


def state_encoder(state: Mapping[str, Any]) -> bytes:
    """The encoder file of a checkpoint's state: the query encoder's backbone with its running BatchNorm statistics.

    Raises:
        ValueError: It is a detector's.
    """
    model, views = _model_and_views(state)
    config = json.loads(state["config"])
    if config.get("task") == "detection":
        raise ValueError(
            "this is a checkpoint of a detector, and holds no encoder of its own: use moco_ray.load_detector on its run's "
            "folder when it has ended, or the encoder that it began from"
        )
    backbone = build_backbone(model, views["crop_px"])
    prefix = "query_encoder.backbone."
    backbone.load_state_dict(
        {name.removeprefix(prefix): value for name, value in state["method"].items() if name.startswith(prefix)}
    )
    metadata = {
        "arch": model.arch,
        "stem": model.stem,
        "patch_px": str(model.patch_px),
        "crop_px": str(views["crop_px"]),
        "mean": json.dumps(views["mean"]),
        "std": json.dumps(views["std"]),
        "step": str(state["step"]),
        "preset": config.get("preset", ""),
        "task": config.get("task", ""),
        "method": config.get("method", {}).get("name", ""),
        "manifest_digest": state.get("manifest_digest", ""),
    }
    return encoder_bytes(backbone, {name: value for name, value in metadata.items() if value})


def written_anew(backbone: nn.Module, content: bytes) -> bytes:
    """An encoder file of the same backbone and metadata, but for what is found here: no other program's recipe."""
    metadata = metadata_of(content)
    return encoder_bytes(backbone, {name: value for name, value in metadata.items() if name not in _FOUND_HERE})


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """An encoder file with more metadata; what it has already stays."""
    return save_safetensors(tensors_of(content, NAME), {**metadata, **metadata_of(content)})


def state_info(content: bytes) -> dict[str, Any]:
    """Of what `encoder_info` tells, arch and numbers, for a checkpoint's state."""
    model, views = _model_and_views(read_state(content, "state.pt"))
    with torch.device("meta"):
        return {"arch": model.arch, "numbers": network_numbers(build_backbone(model, views["crop_px"]))}


def load_encoder(path: str | os.PathLike[str], storage_options: str | None = None) -> nn.Module:
    """Load a pretrained backbone.

    Args:
        path: An encoder.safetensors; the folder of a run, finished, stopped or under way (its newest weights); the
            folder of a checkpoint or the state.pt in it. Local or an fsspec URL such as s3://bucket/runs/name.
        storage_options: Access to it: a JSON object of fsspec options or a file with one. None: the AWS environment.

    Returns:
        A torchvision or timm module in evaluation mode: images (N, 3, H, W), standardised with the mean and std
        of `encoder_info(path)`, -> features (N, d).

    Raises:
        ValueError: There is no such file, it is no encoder of moco_ray, or this version of its library builds another
            network.
    """
    path = _named(path)
    return backbone_of(read_encoder(path, storage_options), path)


def backbone_of(content: bytes, path: str) -> nn.Module:
    """The backbone of an encoder file's content, as `load_encoder` returns it, and raises."""
    info = info_of(content, path)
    backbone = build_backbone(_model(info), info["crop_px"])
    try:
        backbone.load_state_dict(tensors_of(content, path))
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold the weights of its architecture {info['arch']}: {error}") from error
    if differences := different_numbers(network_numbers(backbone), info.get("numbers", {})):
        raise ValueError(
            f"{path} was trained with {'; '.join(differences)}, as {info['arch']} is built here: install "
            f"{info['library']} {info['library_version']}"
        )
    if not same_probe(probe(backbone, info["crop_px"]), info.get("probe", [])):
        warnings.warn(
            f"{path}: {info['arch']} computes other features here than where it was trained, with {info['library']} "
            f"{info['library_version']}; install that version",
            stacklevel=3,
        )
    return backbone.eval()


def encoder_info(path: str | os.PathLike[str], storage_options: str | None = None) -> dict[str, Any]:
    """What is known of an encoder.

    Args:
        path: As for `load_encoder`.
        storage_options: As for `load_encoder`.

    Returns:
        arch, stem and patch_px (as in model.arch, model.stem and model.patch_px), crop_px (side of the images it was trained on), mean and std
        (lists of three numbers, of red, green and blue in 0..1), step (of training), feature_dim and format; recipe
        (Python lines that build the same network without moco_ray), library, library_version, library_name and
        library_arguments (the same for programs), numbers (`network_numbers`) and probe. Files of earlier versions
        have nothing from recipe on. Where known: preset and method (of the run), manifest_digest (of its images), metrics (its
        last evaluation: name -> number) and imported_from (the file of another program that they were read from).

    Raises:
        ValueError: There is no such file, or it is no encoder of moco_ray.
    """
    path = _named(path)
    return info_of(read_encoder(path, storage_options), path)


def _named(path: str | os.PathLike[str]) -> str:
    if path is None or path == "":
        raise ValueError(f"path is {path!r}: name an {NAME}, the folder of a run, or a checkpoint")
    return str(as_uri("path", path))


def read_encoder(path: str, storage_options: str | None = None) -> bytes:
    """The content of an encoder file, or of the one that a run's newest checkpoint would give.

    Raises:
        ValueError: There is neither.
    """
    storage = Storage.open(path, resolve_storage_options(path, storage_options))
    content = newest_content(storage, path)
    is_state = content.startswith(b"PK")  # torch.save writes zip archives
    return state_encoder(read_state(content, path)) if is_state else content


def newest_content(storage: Storage, path: str) -> bytes:
    """What a path names: a file, a checkpoint's state, or a run's encoder file or newest state, whichever is newer.

    What it is, is told from what is there and not from its name.

    Raises:
        ValueError: There is nothing of this kind.
    """
    if storage.is_file(storage.root):
        return file_content(storage)
    if is_checkpoint(storage):
        return checkpoint_state(storage)
    file = storage.join(NAME)
    if storage.is_file(file):
        content = storage.read_bytes(file)
        if not is_encoder(content):
            return content
        newer, _ = newest_state(storage, after=int(metadata_of(content)["step"]))  # the run went on after its end
        return content if newer is None else newer
    state, reasons = newest_state(storage)
    if state is not None:
        return state
    if storage.is_file(storage.join("config.json")) and not _weights_in(storage):
        why = f" that is whole ({'; '.join(reasons)})" if reasons else ""
        raise ValueError(
            f"{path} is a run that has not saved a checkpoint yet{why}, and has no {NAME}; wait for its first one, or go on "
            "with the run"
        )
    return storage.read_bytes(_file_to_name(storage, path, file))  # which says that there is no such file


def _file_to_name(storage: Storage, path: str, file: str) -> str:
    """The file to complain of where a folder is none of a run.

    Raises:
        ValueError: There are weights in it, which have to be named.
    """
    if weights := _weights_in(storage):
        raise ValueError(
            f"{path} is a folder that is no run's ({', '.join(weights[:4])} in it): name the file, {path.rstrip('/')}/{weights[0]}"
        )
    is_page = storage.is_web and not path.endswith("/")
    return storage.root if is_page or (path.endswith(_WEIGHTS) and not storage.exists(storage.root)) else file


def _weights_in(folder: Storage) -> list[str]:
    """Names of files with weights in a folder, of other programs: runs keep theirs in folders, or as `NAME`."""
    return sorted(name for name, _, is_dir in folder.list(folder.root) if not is_dir and name.endswith(_WEIGHTS))


def info_of(content: bytes, path: str) -> dict[str, Any]:
    """What the header of an encoder file says.

    Raises:
        ValueError: It is none of moco_ray's, or cut short.
    """
    check_kind(content, path)
    if is_cut(content):
        raise ValueError(
            f"{path} is no complete safetensors file: it is {'cut short' if content else 'empty'}, {len(content):,} bytes; "
            "copy it anew"
        )
    metadata = metadata_of(content)
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{path} was not written by moco_ray; load it with safetensors, torchvision or timm")
    return {name: json.loads(value) if name in _JSON else value for name, value in metadata.items()}


def is_encoder(content: bytes) -> bool:
    """Whether this is an encoder file of moco_ray."""
    return metadata_of(content).get("format") == _FORMAT


def _model(info: Mapping[str, Any]) -> ModelConfig:
    return ModelConfig(arch=info["arch"], stem=info["stem"], patch_px=int(info.get("patch_px", 16)))


def _model_and_views(state: Mapping[str, Any]) -> tuple[ModelConfig, dict[str, Any]]:
    config = json.loads(state["config"])
    given = config["model"]
    return ModelConfig(**{item.name: given[item.name] for item in fields(ModelConfig) if item.name in given}), config[
        "views"
    ]
