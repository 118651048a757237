"""Views of a few images, as a run trains on them."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from moco_ray.config import Config
from moco_ray.data.decode import BadImage
from moco_ray.data.reading import Encoded, decode, read_rows
from moco_ray.data.views import make_view
from moco_ray.evaluate.features import ImageSet
from moco_ray.report.thumbs import write_views
from moco_ray.storage.storage import Storage

_COLUMNS = 8
_MOST_TRIED = 1000

Pixels = NDArray[np.uint8]


def show_views(config: Config, run: Storage, images: ImageSet) -> tuple[list[Pixels], list[Pixels], list[Pixels]]:
    """Write report/views.json: a few images with the two views that pretraining makes of each; returns all three."""
    shown = _some_good(images)
    query, key = (
        [make_view(image, config.views, seed=config.run.seed, position=i, view=view) for i, image in enumerate(shown)]
        for view in (0, 1)
    )
    write_views(run, shown, query, key)
    return shown, query, key


def _some_good(images: ImageSet) -> list[Pixels]:
    """A few images, evenly spaced; others in the place of those that are bad."""
    first = images.spread(_COLUMNS).rows
    rows = np.r_[first, np.setdiff1d(images.rows, first)[:_MOST_TRIED]]
    shown: list[Pixels] = []
    for start in range(0, len(rows), _COLUMNS):
        contents = read_rows(images.manifest, rows[start : start + _COLUMNS], images.options)
        shown += [image for image in map(partial(_decode, images.max_pixels), contents) if image is not None]
        if len(shown) >= _COLUMNS:
            break
    return shown[:_COLUMNS]


def _decode(max_pixels: int, content: Encoded) -> Pixels | None:
    try:
        return decode(content, max_pixels=max_pixels)
    except BadImage:
        return None
