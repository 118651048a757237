"""Initial weights: from an encoder file, a run, or whatever another program has saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from moco_ray.core.encoders import Encoder
from moco_ray.core.recipe import different_numbers, network_numbers, probe, same_probe
from moco_ray.storage.checks import check_answers
from moco_ray.storage.storage import Storage, StorageOptions, resolve_storage_options
from moco_ray.weights.encoder_file import info_of, is_encoder, newest_content, state_info
from moco_ray.weights.files import Name, read_weights
from moco_ray.weights.names import Found, find_backbone, unknown_names
from moco_ray.weights.official import QUERY_ENCODERS, projector_of
from moco_ray.weights.saved_state import file_content

_OWN_STATE = ("method", "query_encoder", "backbone")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_initial_weights(encoder: Encoder, path: str, *, options: StorageOptions | None = None) -> str:
    """Load initial weights into a query encoder, from whatever kind of file they are in.

    Args:
        encoder: Changed in place, or not at all.
        path: A run's folder, a checkpoint's, or a file: an encoder.safetensors, or weights with the names of
            torchvision or timm under any prefix, as .safetensors or as torch.save writes them (read with
            weights_only=True). The projector comes along where the file has one that fits: under our names, or in place
            of the classifier, as MoCo's authors saved it.
        options: Access to it. None: the AWS environment.

    Returns:
        A sentence that says what was loaded and what was not.

    Raises:
        ValueError: There is no such file, it holds no weights, or they are those of another network.
    """
    try:
        content = read_source(path, options)
        tensors = read_weights(content, path)
    except ValueError as error:
        raise ValueError(f"model.init: {error}") from error
    if not tensors:
        raise ValueError(f"model.init {path} holds no state dict; save one with torch.save(model.state_dict(), path)")
    found = find_backbone(tensors, encoder.backbone)
    _check_forms(found.tensors, path)
    positions = _fit_positions(found.tensors, encoder.backbone)
    _check_backbone(found, unknown_names(tensors, found), encoder.backbone, path)
    projector = _projector(tensors, found, encoder.projector, path)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.backbone.load_state_dict(found.tensors, strict=False)
    encoder.projector.load_state_dict(projector, strict=False)
    info = info_of(content, path) if is_encoder(content) else state_info(content) if found.prefix == _OWN_STATE else {}
    if differences := _differences(encoder.backbone, info, is_resized=bool(positions)):
        encoder.load_state_dict(before)
        raise ValueError(
            f"model.init {path} was trained with {'; '.join(differences)}, as this model has: names and shapes fit, and the "
            f"network is another. Use --model.arch {info['arch']}"
        )
    return _report(path, len(tensors), found, positions, len(projector))


def _report(path: str, num_in_file: int, found: Found, positions: str, num_projector: int) -> str:
    num_loaded = len(found.tensors) + num_projector
    where = f" under {'.'.join(found.prefix)}" if found.prefix else ""
    others = f" (there are such under {', '.join(found.others[:3])} too)" if found.others else ""
    num_left = num_in_file - num_loaded
    left = f"; {num_left} tensors of a classifier or another network are left out" if num_left else ""
    fresh = "" if num_projector else "; the projector starts fresh"
    return f"initial weights: {num_loaded} tensors from {path}{where}{others}{positions}{left}{fresh}"


def read_source(path: str, options: StorageOptions | None) -> bytes:
    """The content of the file of weights that a path names: itself, or the newest of a run's or a checkpoint's folder.

    Raises:
        ValueError: There is none.
    """
    options = options or resolve_storage_options(path, None)
    check_answers(path, options)
    storage = Storage.open(path, options)
    is_folder = storage.exists(storage.root) and not storage.is_file(storage.root)
    return newest_content(storage, path) if is_folder else file_content(storage)


def _check_forms(tensors: Mapping[str, Tensor], path: str) -> None:
    """Refuse tensors whose values cannot be copied into a network's as they are.

    Raises:
        ValueError: There are such.
    """
    if odd := [f"backbone.{name} is {form}" for name, tensor in tensors.items() if (form := _odd_form(tensor))]:
        raise ValueError(
            f"model.init {path} does not fit the model: {len(odd)} tensors are not plain numbers{_first(odd)}; save them as "
            "dense float32, float16 or bfloat16"
        )


def _odd_form(tensor: Tensor) -> str:
    """What a tensor is, if that is not plain numbers; else empty."""
    if tensor.is_meta:
        return "meta, without values"
    if tensor.layout is not torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    is_odd = tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype not in _FLOATS)
    return str(tensor.dtype).removeprefix("torch.") if is_odd else ""


def _check_backbone(found: Found, unknown: list[str], backbone: nn.Module, path: str) -> None:
    """Check names, shapes and values.

    Raises:
        ValueError: They are those of another network, or not finite.
    """
    own, tensors = backbone.state_dict(), found.tensors
    prefix = "backbone."
    if not tensors:
        raise ValueError(
            f"model.init {path} does not fit the model: {len(unknown)} of its keys are unknown to it{_first(unknown)}, which "
            f"has {', '.join(list(own)[:3])}, …; check model.arch"
        )
    wrong = [
        f"{prefix}{name} is {tuple(tensor.shape)} and not {tuple(own[name].shape)}"
        for name, tensor in tensors.items()
        if tensor.shape != own[name].shape
    ]
    wrong += [
        f"{prefix}{name} is {tensor.dtype}".replace("torch.", "")
        for name, tensor in tensors.items()
        if own[name].is_floating_point() and not tensor.is_floating_point()
    ]
    # Old files lack the counters, and nothing that is computed depends on them.
    missing = [name for name in own if name not in tensors and not name.endswith("num_batches_tracked")]
    if wrong and (not unknown or len(wrong) + len(missing) < len(own)):  # else the names say more
        raise ValueError(
            f"model.init {path} does not fit the model: {len(wrong)} tensors have another shape or type{_first(wrong)}; "
            "check model.arch, model.stem and model.patch-px"
        )
    if unknown:
        raise ValueError(
            f"model.init {path} does not fit the model: {len(unknown)} of {len(unknown) + len(tensors)} keys are unknown to "
            f"it{_first([prefix + name for name in unknown])}; check model.arch and model.projector"
        )
    if missing:
        raise ValueError(
            f"model.init {path} lacks {len(missing)} tensors of the backbone{_first([prefix + name for name in missing])}; "
            "check model.arch"
        )
    if bad := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise ValueError(f"model.init {path} holds values that are not finite{_first(bad)}; use other weights")


def _projector(tensors: Mapping[Name, Tensor], found: Found, projector: nn.Module, path: str) -> dict[str, Tensor]:
    """The tensors of a projector beside the backbone, if they are those of ours; empty without.

    Raises:
        ValueError: The file is an encoder of moco_ray's names, with another projector.
    """
    own = projector.state_dict()
    if found.prefix[-1:] == ("backbone",):
        prefix = (*found.prefix[:-1], "projector")
        theirs = {".".join(name[len(prefix) :]): t for name, t in tensors.items() if name[: len(prefix)] == prefix}
    elif found.prefix and found.prefix[-1] in QUERY_ENCODERS:
        theirs = projector_of(tensors, found.prefix)
    else:
        return {}
    wrong = [f"projector.{name}" for name in theirs if name not in own]
    wrong += [
        f"projector.{name} is {tuple(t.shape)} and not {tuple(own[name].shape)}"
        for name, t in theirs.items()
        if name in own and t.shape != own[name].shape
    ]
    wrong += [f"projector.{name} is {form}" for name, t in theirs.items() if (form := _odd_form(t))]
    if wrong and found.prefix == ("backbone",):
        raise ValueError(
            f"model.init {path} does not fit the model: {len(wrong)} tensors are of another projector{_first(wrong)}; check "
            "model.projector, model.hidden-dim and model.dim, or save the backbone alone"
        )
    return {} if wrong or len(theirs) < len(own) else theirs


def _differences(backbone: nn.Module, info: Mapping[str, Any], *, is_resized: bool) -> list[str]:
    """How a network with these weights computes something else than where they were trained, if that is known."""
    differences = different_numbers(network_numbers(backbone), info.get("numbers", {}))
    theirs = info.get("probe", [])
    if differences or not theirs or is_resized:
        return differences
    is_same = same_probe(probe(backbone, info["crop_px"]), theirs)
    return [] if is_same else ["other features from the same image"]


def _fit_positions(tensors: dict[str, Tensor], backbone: nn.Module) -> str:
    """Interpolate the position embedding of a ViT of another size, in place; returns words that say so."""
    grid = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
    given, own = tensors.get("pos_embed"), backbone.state_dict().get("pos_embed")
    if grid is None or given is None or own is None or given.shape == own.shape or given.dim() != 3:
        return ""
    num_prefix = own.shape[1] - math.prod(grid)
    side = math.isqrt(max(given.shape[1] - num_prefix, 0))
    if num_prefix < 0 or side * side + num_prefix != given.shape[1] or given.shape[2] != own.shape[2]:
        return ""
    from timm.layers.pos_embed import resample_abs_pos_embed  # here, because timm takes seconds to import

    tensors["pos_embed"] = resample_abs_pos_embed(
        given.float(), new_size=list(grid), old_size=[side, side], num_prefix_tokens=num_prefix
    )
    return f", positions of {side} x {side} patches interpolated to {grid[0]} x {grid[1]}"


def _first(names: list[str]) -> str:
    """Show the first few of a list."""
    return f" ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})" if names else ""
