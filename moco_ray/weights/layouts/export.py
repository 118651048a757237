"""Write an encoder in the layout of another tool, once that tool has given the same features."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

from moco_ray.config.paths import as_uri
from moco_ray.storage.storage import Storage, resolve_storage_options
from moco_ray.weights.layouts.detectron2 import DETECTRON2
from moco_ray.weights.layouts.huggingface import HUGGINGFACE
from moco_ray.weights.layouts.layout import Layout, Source
from moco_ray.weights.layouts.onnx_file import ONNX
from moco_ray.weights.layouts.source import Told, read_encoder_source
from moco_ray.weights.layouts.verify import TOLERANCE, verify
from moco_ray.weights.layouts.weights_files import SAFETENSORS, TIMM, TORCHVISION

log = logging.getLogger(__name__)
LAYOUTS = {layout.name: layout for layout in (TORCHVISION, TIMM, SAFETENSORS, DETECTRON2, HUGGINGFACE, ONNX)}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    layout: str
    """Its name."""
    files: list[str]
    """URIs."""
    max_abs_difference: float
    """Between a feature of the encoder and of the file, loaded by the tool that it is for."""
    largest_feature: float
    """Largest absolute value of a feature of the encoder."""
    tolerance: float
    """Difference that is allowed."""
    verified_by: str
    """Who has loaded the file."""
    arch: str
    """As in model.arch."""
    feature_dim: int
    """Width of the features."""
    metadata: dict[str, Any]
    """What `encoder_info` tells of the encoder."""
    hints: list[str]
    """Lines that load it."""


def export_weights(
    path: str,
    layout: str,
    output: str,
    *,
    told: Told | None = None,
    storage_options: str | None = None,
) -> Exported:
    """Write an encoder in a layout, verified.

    Args:
        path: A run's folder, a checkpoint's, an encoder.safetensors, or a file of another program.
        layout: One of `LAYOUTS`.
        output: The file, or the folder for huggingface.
        told: What the file of another program does not say.
        storage_options: Access to both places.

    Raises:
        ValueError: There is no such encoder, or the layout has none like it.
        NotTheSame: The tool does not give the same features.
    """
    path, output = str(as_uri("SOURCE", path)), str(as_uri("output", output))
    if layout not in LAYOUTS:
        raise ValueError(f"--to {layout} is no layout; use one of {', '.join(LAYOUTS)}")
    suffix_of(LAYOUTS[layout], output)
    source = read_encoder_source(path, storage_options, told or Told())
    return write_verified(LAYOUTS[layout], source, output, storage_options)


def write_verified(layout: Layout, source: Source, output: str, storage_options: str | None = None) -> Exported:
    """Write an encoder whose file gives the same features; nothing appears at `output` before.

    Raises:
        ValueError: The layout has no such encoder, or the place cannot be written to.
        NotTheSame: It does not.
    """
    suffix = suffix_of(layout, output)
    files = layout.write(source, suffix)
    log.info(f"{layout.name}: written, {sum(map(len, files.values())) / 1e6:,.1f} MB; loading it in another process")
    verified = verify(layout, source, files, suffix)
    log.info(
        f"the same features of {verified.num_images} images by {verified.by}: they differ by at most "
        f"{verified.max_abs_difference:.3g} (the largest is {verified.largest:.3g})"
    )
    storage = Storage.open(output, resolve_storage_options(output, storage_options))
    places = {storage.join(name) if name else storage.root: content for name, content in files.items()}
    for place, content in places.items():
        storage.write_bytes(place, content)
        log.info(f"wrote {storage.uri(place)}")
    return Exported(
        layout=layout.name,
        files=[storage.uri(place) for place in places],
        max_abs_difference=verified.max_abs_difference,
        largest_feature=verified.largest,
        tolerance=TOLERANCE * verified.largest,
        verified_by=verified.by,
        arch=source.model.arch,
        feature_dim=int(source.info["feature_dim"]),
        metadata=source.info,
        hints=layout.hints(source, storage.uri(storage.root)),
    )


def suffix_of(layout: Layout, output: str) -> str:
    """What a file's name ends in; empty for a folder.

    Raises:
        ValueError: It is none of the layout's.
    """
    for suffix in layout.suffixes:
        if output.endswith(suffix):
            return suffix
    if layout.suffixes:
        example = output.rstrip("/").rsplit("/", 1)[-1].split(".")[0] or "encoder"
        raise ValueError(
            f"--output {output}: the layout {layout.name} is a file; name it {example}{' or '.join(layout.suffixes)}"
        )
    return ""


def to_json(exported: Exported) -> str:
    """What was written, for programs."""
    return json.dumps(asdict(exported), indent=1)
