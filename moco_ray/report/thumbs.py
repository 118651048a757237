"""Small pictures for a page, kept as JSON files in report/: views, neighbours, a map, and what is left of bad images."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import shown

_PX, _QUALITY, _LONGEST = 112, 72, 40
_COARSE_PX = 64  # smaller images keep their pixels: blurring a digit of 28 px hides what the network saw

Pixels = NDArray[np.uint8]


def data_uri(pixels: Pixels, px: int = _PX) -> str:
    """An image (H, W, 3) as a small WebP in a URL, its longer side at most so many pixels."""
    image = Image.fromarray(pixels)
    is_coarse = max(image.size) <= min(_COARSE_PX, px)
    image.thumbnail((px, px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=_QUALITY, lossless=is_coarse, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write_views(run: Storage, images: Sequence[Pixels], *views: Sequence[Pixels]) -> None:
    """Write report/views.json: images, each with its views."""
    rows = [[data_uri(picture) for picture in pictures] for pictures in zip(images, *views, strict=True)]
    write_json(run, "views", {"rows": rows})


def write_neighbours(
    run: Storage,
    query_images: Sequence[Pixels],
    neighbour_images: Sequence[Sequence[Pixels]],
    similarities: Sequence[Sequence[float]],
    query_labels: Sequence[int] | None = None,
    neighbour_labels: Sequence[Sequence[int]] | None = None,
    classes: Sequence[str] = (),
) -> None:
    """Write report/neighbours.json: images, each with those whose features are most alike; labels as of `neighbours_picture`."""
    rows = []
    for row, image in enumerate(query_images):
        label = None if query_labels is None else query_labels[row]
        others = []
        for column, other in enumerate(neighbour_images[row]):
            theirs = None if neighbour_labels is None else neighbour_labels[row][column]
            others.append(
                {
                    "src": data_uri(other),
                    "similarity": round(float(similarities[row][column]), 4),
                    "class": None if theirs is None else _name(classes[theirs]),
                    "agrees": None if theirs is None or label is None else theirs == label,
                }
            )
        rows.append(
            {"src": data_uri(image), "class": None if label is None else _name(classes[label]), "others": others}
        )
    write_json(run, "neighbours", {"rows": rows})


def write_json(run: Storage, name: str, values: dict[str, Any]) -> None:
    """Write report/NAME.json."""
    run.write_bytes(run.join("report", f"{name}.json"), json.dumps(values).encode())


def _name(text: str) -> str:
    text = shown(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
