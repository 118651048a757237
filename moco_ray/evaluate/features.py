"""Features of images: read, decode and encode them in batches."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moco_ray.core.encoders import normalize
from moco_ray.data.decode import BadImage, decode_image
from moco_ray.data.manifest import Manifest, read_rows
from moco_ray.data.storage import StorageOptions
from moco_ray.data.views import center_view

_BATCH = 128
_BATCHES_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Rows of a manifest."""

    manifest: Manifest
    """The images."""
    rows: NDArray[np.int64]
    """The rows that belong to the set, ascending."""
    labels: NDArray[np.int64]
    """(len(rows),) their labels, -1 without one."""
    options: StorageOptions
    """Access to the images."""
    max_pixels: int
    """Images with more pixels count as bad."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Encoded images."""

    features: Tensor
    """(N, d) float32 on the CPU."""
    labels: Tensor
    """(N,) int64, -1 without a label."""
    ids: Tensor
    """(N,) int64: a hash of the image's pixels, equal for identical images."""
    num_bad: int
    """Images left out because they do not decode."""


def encode_images(
    backbone: nn.Module,
    images: ImageSet,
    *,
    crop_px: int,
    resize_px: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Features:
    """Encode the centre crops of a set of images, in evaluation mode, without gradients.

    Args:
        backbone: Images (n, 3, crop_px, crop_px) -> features (n, d).
        images: What to encode.
        crop_px: Side of the centre crop.
        resize_px: The shorter side before the crop.
        mean: Of red, green and blue in 0..1.
        std: Of red, green and blue in 0..1.
    """
    parameter = next(backbone.parameters())
    center = torch.tensor(mean, dtype=parameter.dtype, device=parameter.device)
    scale = torch.tensor(std, dtype=parameter.dtype, device=parameter.device)
    was_training = backbone.training
    backbone.eval()
    features, labels, ids = [torch.zeros(0, 1)], [], []
    num_bad = 0
    try:
        with torch.inference_mode():
            for pixels, kept in _load(images, crop_px, resize_px):
                num_bad += len(kept) - int(kept.sum())
                if not len(pixels):
                    labels.append(np.zeros(0, np.int64))
                    continue
                batch = normalize(torch.from_numpy(pixels).to(parameter.device), center, scale)
                features.append(backbone(batch).float().cpu())
                ids.append(torch.tensor([_identity(image) for image in pixels]))
                labels.append(kept)
    finally:
        backbone.train(was_training)
    if len(features) == 1:
        raise ValueError(f"none of {len(images.rows)} images can be decoded")
    keep = np.concatenate(labels)
    return Features(
        features=torch.cat(features[1:]),
        labels=torch.from_numpy(images.labels[keep.astype(bool)]),
        ids=torch.cat(ids),
        num_bad=num_bad,
    )


def _identity(image: NDArray[np.uint8]) -> int:
    return int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), "little", signed=True)


def _load(images: ImageSet, crop_px: int, resize_px: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Pixels (k, crop_px, crop_px, 3) of the good images of each batch, and which of the batch were good."""

    def load(rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        good, kept = [], np.zeros(len(rows), dtype=bool)
        for i, content in enumerate(read_rows(images.manifest, rows, images.options)):
            try:
                image = decode_image(content, max_pixels=images.max_pixels)
            except BadImage:
                continue
            good.append(center_view(image, crop_px, resize_px))
            kept[i] = True
        shape = (0, crop_px, crop_px, 3)
        return np.stack(good) if good else np.zeros(shape, np.uint8), kept

    threads = max(1, (os.cpu_count() or 1) // 2)
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[tuple[NDArray[np.uint8], NDArray[np.bool_]]]] = deque()
        for start in range(0, len(images.rows), _BATCH):
            ahead.append(pool.submit(load, images.rows[start : start + _BATCH]))
            if len(ahead) > threads * _BATCHES_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
