"""Features of images: read, decode and encode them in batches."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moco_ray.core.encoders import normalize
from moco_ray.core.precision import encoding_autocast
from moco_ray.data.daemon_pool import DaemonPool
from moco_ray.data.decode import BadImage
from moco_ray.data.manifest import Manifest
from moco_ray.data.reading import Encoded, decode, read_rows
from moco_ray.data.views import center_view
from moco_ray.storage.storage import StorageOptions

# What is read ahead is bounded by 2 * 16 * 64 images, 300 MB at 224 px; a GPU gets eight batches at once.
_BATCH = 64
_JOINED_ON_GPU = 8
_MAX_THREADS = 16
_BATCHES_AHEAD = 2
_SPAN, _DENSE = 16 * _BATCH, 2  # rows of Parquet files that are read at once, if at least every second one is wanted
FLAT = 16  # of 255: an image whose channels vary less is of nearly one colour

UInt8Array = NDArray[np.uint8]


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

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows)

    def part(self, first: int, last: int) -> ImageSet:
        """The images of places first to last - 1."""
        return replace(self, rows=self.rows[first:last], labels=self.labels[first:last])

    def spread(self, at_most: int) -> ImageSet:
        """Up to `at_most` of the images, evenly spaced: rows often come class by class."""
        places = np.linspace(0, len(self) - 1, min(at_most, len(self))).round().astype(np.int64)
        return replace(self, rows=self.rows[places], labels=self.labels[places])


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """Some decoded images of a set."""

    pixels: UInt8Array
    """(n, ...) uint8, one view of each image, whatever its shape."""
    places: NDArray[np.int64]
    """(n,) which images of the set these are."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Encoded images."""

    features: Tensor
    """(N, d) float32, on the device that encoded them."""
    labels: Tensor
    """(N,) int64, -1 without a label."""
    ids: Tensor
    """(N,) int64: a hash of the pixels that were encoded, equal for identical images."""
    num_bad: int
    """Images left out because they cannot be had or do not decode."""
    num_flat: int = 0
    """Images of nearly one colour, as they were encoded."""


def _no_word(place: int, reason: str) -> None:
    """Tell nobody why an image is bad."""


def load_images(
    images: ImageSet,
    view: Callable[[UInt8Array, int], UInt8Array],
    *,
    at_once: int = _BATCH,
    tell_bad: Callable[[int, str], None] = _no_word,
) -> Iterator[ImageBatch]:
    """Read and decode a set of images in threads, a bounded number of batches ahead, in order.

    Args:
        images: What to read.
        view: Makes what is wanted of an upright RGB image uint8 (H, W, 3), given also its place in the set; runs in
            the threads. All results of a batch have one shape.
        at_once: Images in a batch, at most.
        tell_bad: Called with the place in the set of each image that is left out, and why; in the threads.

    Yields:
        Batches of so many images or fewer, without those that cannot be had or do not decode; never an empty one.

    Raises:
        ReadError: The storage does not answer.
        ValueError: Nor does it give any other image.
    """

    def read(first: int, last: int) -> list[Encoded]:
        return read_rows(images.manifest, images.rows[first:last], images.options)

    def load(places: NDArray[np.int64], span: Future[list[Encoded]] | None) -> ImageBatch:
        first, last = int(places[0]), int(places[-1]) + 1
        start = first // _SPAN * _SPAN
        contents = read(first, last) if span is None else span.result()[first - start : last - start]
        views, good = [], []
        for place, content in zip(places, contents, strict=True):
            try:
                image = decode(content, max_pixels=images.max_pixels)
            except BadImage as reason:
                tell_bad(int(place), str(reason))
                continue
            views.append(view(image, int(place)))
            good.append(place)
        pixels = np.stack(views) if views else np.zeros(0, np.uint8)
        return ImageBatch(pixels=pixels, places=np.array(good, dtype=np.int64))

    num_threads = min(os.cpu_count() or 1, _MAX_THREADS)
    pool = DaemonPool(num_threads)
    ahead: deque[Future[ImageBatch]] = deque()
    span: Future[list[Encoded]] | None = None
    try:
        for start in range(0, len(images), at_once):
            if start % _SPAN == 0 and _SPAN % at_once == 0:  # begun before those that wait for it
                end = min(start + _SPAN, len(images))
                span = pool.submit(read, start, end) if _is_dense(images, start, end) else None
            ahead.append(pool.submit(load, np.arange(start, min(start + at_once, len(images))), span))
            if len(ahead) >= num_threads * _BATCHES_AHEAD:
                yield from _unless_empty(ahead.popleft())
        while ahead:
            yield from _unless_empty(ahead.popleft())
    finally:
        pool.shutdown()


def _unless_empty(batch: Future[ImageBatch]) -> Iterator[ImageBatch]:
    """A batch, when it is there, if any of its images is."""
    if len(batch.result().places):
        yield batch.result()


def _is_dense(images: ImageSet, first: int, last: int) -> bool:
    """Whether images are best read at once: rows of Parquet files that share row groups, which are read whole."""
    rows = images.rows[first:last]
    return images.manifest.kind == "parquet" and int(rows[-1] - rows[0]) < _DENSE * len(rows)


def encode_images(
    backbone: nn.Module,
    images: ImageSet,
    *,
    crop_px: int,
    resize_px: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    tell: Callable[[int], None] = lambda count: None,
) -> Features:
    """Encode the centre crops of a set of images, in evaluation mode, without gradients, where the backbone is.

    Args:
        backbone: Images (n, 3, crop_px, crop_px) -> features (n, d). Its mode is restored.
        images: What to encode.
        crop_px: Side of the centre crop.
        resize_px: The shorter side before the crop.
        mean: Of red, green and blue in 0..1.
        std: Of red, green and blue in 0..1.
        tell: Called with the number of images that were encoded since the last call.

    Raises:
        ValueError: Not one of the images decodes.
        ReadError: An image cannot be read.
    """
    features, ids, places, num_flat = [], [], [], 0
    batches = load_images(images, lambda image, _: center_view(image, crop_px, resize_px))
    if next(backbone.parameters()).is_cuda:
        batches = joined(batches)
    was_training = backbone.training
    backbone.eval()
    try:
        for batch in batches:
            features.append(apply_to_pixels(backbone, batch.pixels, mean=mean, std=std))
            ids += [identity(image) for image in batch.pixels]
            num_flat += int((np.ptp(batch.pixels, axis=(1, 2)).max(axis=1) < FLAT).sum())
            places.append(batch.places)
            tell(len(batch.places))
    finally:
        backbone.train(was_training)
    if not features:
        raise ValueError(f"none of the {len(images)} images to evaluate on can be decoded; check eval.uri or data.uri")
    kept = np.concatenate(places)
    return Features(
        features=torch.cat(features),
        labels=torch.from_numpy(images.labels[kept]),
        ids=torch.tensor(ids, dtype=torch.int64),
        num_bad=len(images) - len(kept),
        num_flat=num_flat,
    )


def joined(batches: Iterator[ImageBatch]) -> Iterator[ImageBatch]:
    """Batches that are large enough for a GPU."""
    while several := list(itertools.islice(batches, _JOINED_ON_GPU)):
        pixels, places = (np.concatenate(parts) for parts in zip(*((b.pixels, b.places) for b in several), strict=True))
        yield ImageBatch(pixels=pixels, places=places)


@torch.inference_mode()
def apply_to_pixels(
    module: nn.Module,
    pixels: UInt8Array,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    dtype: str = "auto",
) -> Tensor:
    """Standardise images uint8 (n, H, W, 3) and apply a module; returns float32 (n, d) on the module's device.

    In a dtype as run.dtype names it; "auto" is bfloat16 on CUDA devices that have it. Channels-last, if the module is.
    """
    parameter = next(module.parameters())
    device = parameter.device
    center, scale = (torch.tensor(v, dtype=parameter.dtype, device=device) for v in (mean, std))
    autocast = encoding_autocast(dtype, device)
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        outputs: Tensor = module(normalize(torch.from_numpy(pixels).to(device), center, scale, autocast))
    return outputs.float()


def identity(image: UInt8Array) -> int:
    """A hash of pixels: equal for identical images."""
    return int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), "little", signed=True)
