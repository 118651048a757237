"""What a batch holds of boxed images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moco_ray.config.detection import DetectionConfig
from moco_ray.core.hashing import hash64
from moco_ray.data.boxes.table import COLUMNS
from moco_ray.data.makers import Maker, Sample
from moco_ray.data.views import resize

_SIDE, _FLIP = 0xB0, 0xB1  # keep these draws apart from others that are keyed by (seed, position)
_THINNEST_PX = 1e-3


def scaled_size(height: int, width: int, shorter_px: int, longest_px: int) -> tuple[int, int]:
    """Height and width of an image whose shorter side becomes shorter_px, or less where its longer one would be too long."""
    scale = min(shorter_px / min(height, width), longest_px / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True)
class BoxedView(Maker):
    """A resized and perhaps mirrored image and its boxes.

    `images`: (P,) uint8, the rows of the image one after another, then zeros; `size`: (2,) int32 height and width; `boxes`:
    (max_boxes, 4) float32 x1, y1, x2, y2; `labels`: (max_boxes,) int64, from 1 on; `num_boxes`: () int64. Crowds are
    not among them.
    """

    config: DetectionConfig
    """Sizes."""

    def arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """An image, its size and its boxes."""
        most = self.config.max_boxes
        return {
            "images": ((self.config.pixels_per_image * 3,), "uint8"),
            "size": ((2,), "int32"),
            "boxes": ((most, 4), "float32"),
            "labels": ((most,), "int64"),
            "num_boxes": ((), "int64"),
        }

    def make(self, samples: Sequence[Sample], seed: int) -> None:
        """Scale and mirror each image and its boxes."""
        for sample in samples:
            self._make_one(sample, seed)

    def _make_one(self, sample: Sample, seed: int) -> None:
        config, out = self.config, sample.out
        side = config.min_px[int(hash64(seed, sample.position, _SIDE)[0] % np.uint64(len(config.min_px)))]
        is_flipped = config.flip and bool(hash64(seed, sample.position, _FLIP)[0] & np.uint64(1))
        before = (sample.image.shape[0], sample.image.shape[1])
        height, width = scaled_size(*before, side, config.max_px)
        image = resize(sample.image, height, width)
        flat = (image[:, ::-1] if is_flipped else image).ravel()
        out["images"][: len(flat)] = flat
        out["images"][len(flat) :] = 0
        out["size"][...] = height, width
        assert sample.targets is not None
        boxes = trained_boxes(sample.targets)
        corners = boxes[:, :4] * np.tile([width / before[1], height / before[0]], 2)
        if is_flipped:
            corners[:, [0, 2]] = width - corners[:, [2, 0]]
        corners = np.clip(corners, 0, np.tile([width, height], 2))
        is_seen = (corners[:, 2:] - corners[:, :2]).min(axis=1, initial=np.inf) > _THINNEST_PX
        corners, labels = corners[is_seen], boxes[is_seen, 4] + 1
        count = min(len(corners), config.max_boxes)
        for name, values in (("boxes", corners), ("labels", labels)):
            out[name][:count] = values[:count]
            out[name][count:] = 0
        out["num_boxes"][...] = count


def trained_boxes(targets: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows (n, 7) of a row's targets that are trained on: all but crowds, as in Detectron2."""
    boxes = targets.reshape(-1, COLUMNS)
    return boxes[np.flatnonzero(boxes[:, 6] == 0)]
