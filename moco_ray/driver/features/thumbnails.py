"""Small pictures of some images of a set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moco_ray.data.views import center_view
from moco_ray.evaluate.features import ImageSet, load_images

_SHOWN_PX = 96


def thumbnails(images: ImageSet, places: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """Centre crops of the images at some places, by place; without those that do not decode."""
    at = np.array(sorted(set(places)), dtype=np.int64)
    some = replace(images, rows=images.rows[at], labels=images.labels[at])
    return {
        int(at[place]): pixels
        for batch in load_images(some, lambda image, _: center_view(image, _SHOWN_PX, _SHOWN_PX))
        for place, pixels in zip(batch.places, batch.pixels, strict=True)
    }
