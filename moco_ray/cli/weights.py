"""Write an encoder for torchvision, timm, Hugging Face, Detectron2 or ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro

from moco_ray.cli.command import run_command, say
from moco_ray.config.programs import spoken

_STOPPED = "stopped; nothing was written"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write a pretrained encoder for another tool, once that tool has loaded the file and given the same features.

    torchvision: state dict of a ResNet without fc. timm: state dict without a classifier. safetensors: ours, with what
    is known of the run. detectron2: .pkl of a ResNet. huggingface: a folder for the Hub, which timm loads. onnx: the
    network as a program, for batches of any size.
    """

    source: tyro.conf.Positional[str]
    """A run's folder, a checkpoint's, an encoder.safetensors, or a file of another program: MoCo's authors', torchvision's
    or timm's (with --arch, where it does not say what it is)."""
    to: Literal["torchvision", "timm", "safetensors", "detectron2", "huggingface", "onnx"]
    """The layout."""
    output: str
    """The file to write, or the folder for huggingface. Local or an fsspec URL."""
    arch: str | None = None
    """Network of another program's file, as --model.arch. None: what the file says."""
    stem: Literal["imagenet", "cifar"] | None = None
    """Its first layers, as --model.stem. None: imagenet."""
    patch_px: int | None = None
    """Side of its patches, as --model.patch-px. None: 16."""
    crop_px: int | None = None
    """Side of the images that it was trained on. None: 224."""
    mean: tuple[float, float, float] | None = None
    """Mean that was subtracted from red, green and blue in 0..1. None: ImageNet's."""
    std: tuple[float, float, float] | None = None
    """Standard deviation that they were divided by. None: ImageNet's."""
    storage_options: str | None = None
    """Access to both places: a JSON object of fsspec options or a file with one. None: the AWS environment."""
    json: str | None = None
    """Write layout, files, largest difference, arch, feature_dim and metadata to this file, too."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and write; returns the exit code, which is that of jobs/pretrain.py."""
    given = tyro.cli(Arguments, args=arguments, prog=spoken("weights"))
    return run_command(lambda: _export(given), stopped=_STOPPED)


def _export(given: Arguments) -> None:
    from moco_ray.storage.storage import Storage, resolve_storage_options
    from moco_ray.tasks.failure import RunFailed
    from moco_ray.weights.layouts.export import export_weights, to_json
    from moco_ray.weights.layouts.source import Told
    from moco_ray.weights.layouts.verify import NotTheSame
    from moco_ray.worker.console import said_by

    told = Told(
        arch=given.arch,
        stem=given.stem,
        patch_px=given.patch_px,
        crop_px=given.crop_px,
        mean=given.mean,
        std=given.std,
    )
    with said_by(say):
        try:
            exported = export_weights(
                given.source, given.to, given.output, told=told, storage_options=given.storage_options
            )
        except NotTheSame as error:
            raise RunFailed(str(error)) from error
    if given.json is not None:
        place = Storage.open(given.json, resolve_storage_options(given.json, given.storage_options))
        place.write_bytes(place.root, to_json(exported).encode())
    say("to load it:")
    for line in exported.hints:
        say(f"    {line}")
