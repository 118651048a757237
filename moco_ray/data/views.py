"""Two random views of an image: the augmentations of MoCo v1, v2, v3, SimCLR and the CIFAR demo, on uint8.

The transforms are torchvision's, drawn as torchvision draws them; what differs is how they are computed. Crops are
array slices, the resize is torch's antialiased uint8 kernel, brightness, contrast, saturation and grayscale are
colour matrices that clip where Pillow's do. The tests hold the result to Pillow's: on photos 0.4 to 0.5 grey levels
away on average (v1: 0.6), at most 3 or 4 in 99 % of the values, and up to 2 in the mean of a single view.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from moco_ray.config.views import ViewsConfig
from moco_ray.data.colour import BRIGHTNESS, CONTRAST, HUE, SATURATION, blur, jitter, solarize

UInt8Array = NDArray[np.uint8]

# Sides of torchvision's RandomResizedCrop, and how often it tries before it takes the centre.
_RATIO_MIN, _RATIO_MAX = 3 / 4, 4 / 3
_LOG_RATIO_MIN, _LOG_RATIO_MAX = math.log(_RATIO_MIN), math.log(_RATIO_MAX)
_CROP_TRIES = 10
# A centre view resizes the whole picture up to this ratio of its sides, and beyond it only the part that it shows.
_MOST_RESIZED = 4
# A resize to at most this side costs torch more to prepare than to do; a product of more terms would start threads.
_SMALL_PX, _MOST_TERMS = 32, 2**18
_ORDERS = tuple(itertools.permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE)))


class ViewDraw(NamedTuple):
    """What chance decided for one view."""

    crop: tuple[int, int, int, int]
    """Top, left, height and width of the crop, in pixels of the image."""
    jitter_order: tuple[int, ...]
    """Order of brightness 0, contrast 1, saturation 2, hue 3; empty: no jitter."""
    jitter_factors: tuple[float, float, float, float]
    """Factors of brightness, contrast and saturation, and the hue's shift in turns."""
    is_gray: bool
    """Whether the view turns grey."""
    blur_sigma: float
    """Standard deviation of the blur in pixels; 0: none."""
    is_solarized: bool
    """Whether bright pixels are inverted."""
    is_flipped: bool
    """Whether left and right change places."""


class Wanted(NamedTuple):
    """A view to make, and where to."""

    image: UInt8Array
    """uint8 (H, W, 3) RGB."""
    position: int
    """Of the image in the run's stream."""
    view: int
    """0 or 1."""
    row: UInt8Array
    """uint8 (crop_px, crop_px, 3) that becomes the view, such as a row of a batch."""


def draw_view(height: int, width: int, config: ViewsConfig, *, seed: int, position: int, view: int) -> ViewDraw:
    """Draw the parameters of one view of a (height, width) image from (seed, position, view) alone.

    Mersenne Twister seeded with one integer: Python pins both the seeding and `random()` for all versions. Only
    `random()` is called, since the other methods are not pinned.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        config: The augmentation.
        seed: Of the run.
        position: Of the image in the run's stream.
        view: 0 or 1.

    Returns:
        The parameters, distributed as torchvision's transforms draw them.
    """
    uniform = random.Random(((seed & (2**64 - 1)) << 72) | (position << 8) | view).random
    crop = _draw_crop(height, width, config.crop_min, uniform)
    order: tuple[int, ...] = ()
    factors = (1.0, 1.0, 1.0, 0.0)
    if uniform() < config.jitter_p:
        order = _ORDERS[int(uniform() * len(_ORDERS))]
        brightness, contrast, saturation, hue = config.jitter
        factors = (
            _between(max(0.0, 1 - brightness), 1 + brightness, uniform()),
            _between(max(0.0, 1 - contrast), 1 + contrast, uniform()),
            _between(max(0.0, 1 - saturation), 1 + saturation, uniform()),
            _between(-hue, hue, uniform()),
        )
    is_gray = uniform() < config.grayscale_p
    sigma = _between(*config.blur_sigma, uniform()) if uniform() < config.blur_p[view] else 0.0
    return ViewDraw(
        crop=crop,
        jitter_order=order,
        jitter_factors=factors,
        is_gray=is_gray,
        blur_sigma=sigma,
        is_solarized=uniform() < config.solarize_p[view],
        is_flipped=uniform() < config.flip_p,
    )


def apply_view(image: UInt8Array, draw: ViewDraw, config: ViewsConfig) -> UInt8Array:
    """Make the view that `draw` describes: crop and resize, colours, blur, solarize, flip.

    Args:
        image: uint8 (H, W, 3) RGB.
        draw: Parameters drawn for an image of this size.
        config: The augmentation.

    Returns:
        uint8 (crop_px, crop_px, 3), contiguous, its own memory.
    """
    return _flip(_colour(_crop(image, draw, config), draw, config), draw)


def make_view(image: UInt8Array, config: ViewsConfig, *, seed: int, position: int, view: int) -> UInt8Array:
    """Make one random view of an image, the same on every machine.

    Args:
        image: uint8 (H, W, 3) RGB.
        config: The augmentation.
        seed: Of the run.
        position: Of the image in the run's stream.
        view: 0 or 1.

    Returns:
        uint8 (crop_px, crop_px, 3).
    """
    draw = draw_view(*_size(image), config, seed=seed, position=position, view=view)
    return apply_view(image, draw, config)


def make_views(wanted: Sequence[Wanted], config: ViewsConfig, *, seed: int) -> None:
    """Make many views, each the one that `make_view` makes.

    Each step is taken for all of them before the next, so that its code stays in the processor's cache: views of 32 px
    are made 1.6 times as fast. Images and views should fit into that cache, too.

    Args:
        wanted: Images, which views of them, and the rows to fill.
        config: The augmentation.
        seed: Of the run.
    """
    draws = [draw_view(*_size(one.image), config, seed=seed, position=one.position, view=one.view) for one in wanted]
    views = [_crop(one.image, draw, config) for one, draw in zip(wanted, draws, strict=True)]
    views = [_colour(x, draw, config) for x, draw in zip(views, draws, strict=True)]
    for x, draw, one in zip(views, draws, wanted, strict=True):
        one.row[...] = _flip(x, draw)


def center_view(image: UInt8Array, crop_px: int, resize_px: int) -> UInt8Array:
    """Resize the shorter side and cut out the centre, the view of evaluations.

    Args:
        image: uint8 (H, W, 3) RGB.
        crop_px: Side of the result.
        resize_px: Shorter side after the (antialiased) resize, at least `crop_px`.

    Returns:
        uint8 (crop_px, crop_px, 3).

    Raises:
        ValueError: If the crop is larger than the resized image.
    """
    if crop_px > resize_px:
        raise ValueError(f"a centre crop of {crop_px} px does not fit into {resize_px} px; resize to at least the crop")
    height, width = image.shape[:2]
    shorter = min(height, width)
    # The longer side truncates and the crop's corner rounds, as in torchvision.
    height, width = resize_px * height // shorter, resize_px * width // shorter
    top, left = round((height - crop_px) / 2), round((width - crop_px) / 2)
    if max(height, width) <= _MOST_RESIZED * resize_px:
        return np.ascontiguousarray(resize(image, height, width)[top : top + crop_px, left : left + crop_px])
    return _resize_part(image, (height, width), (top, left), crop_px)


def _draw_crop(height: int, width: int, area_min: float, uniform: Callable[[], float]) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) as torchvision's RandomResizedCrop does."""
    for _ in range(_CROP_TRIES):
        area = height * width * _between(area_min, 1.0, uniform())
        ratio = math.exp(_between(_LOG_RATIO_MIN, _LOG_RATIO_MAX, uniform()))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(uniform() * (height - h + 1)), int(uniform() * (width - w + 1)), h, w
    # The whole image, or its centre where it is longer than the allowed ratios.
    h, w = height, width
    if width / height < _RATIO_MIN:
        h = round(width / _RATIO_MIN)
    elif width / height > _RATIO_MAX:
        w = round(height * _RATIO_MAX)
    return (height - h) // 2, (width - w) // 2, h, w


def _crop(image: UInt8Array, draw: ViewDraw, config: ViewsConfig) -> UInt8Array:
    """Crop and resize; the result shares no memory with the image."""
    top, left, height, width = draw.crop
    return resize(image[top : top + height, left : left + width], config.crop_px, config.crop_px)


def _colour(x: UInt8Array, draw: ViewDraw, config: ViewsConfig) -> UInt8Array:
    """Jitter, turn grey, blur and solarize a cropped view, whose memory may be used."""
    if draw.jitter_order or draw.is_gray:
        x = jitter(
            x,
            draw.jitter_order,
            draw.jitter_factors,
            gray_first=draw.is_gray and config.grayscale_first,
            gray_last=draw.is_gray and not config.grayscale_first,
        )
    if draw.blur_sigma:
        x = blur(x, draw.blur_sigma)
    return solarize(x) if draw.is_solarized else x


def _flip(x: UInt8Array, draw: ViewDraw) -> UInt8Array:
    return cast(UInt8Array, cv2.flip(x, 1)) if draw.is_flipped else x


def _size(image: UInt8Array) -> tuple[int, int]:
    height, width, _ = image.shape
    return height, width


def _between(low: float, high: float, uniform: float) -> float:
    return low + (high - low) * uniform


def resize(image: UInt8Array, height: int, width: int) -> UInt8Array:
    """Resize with an antialiased bilinear filter, Pillow's within 0.04 grey levels."""
    if image.shape[:2] == (height, width):
        return image.copy()
    longer, terms = max(image.shape[:2]), 9 * image.shape[0] * image.shape[1] * width
    if longer <= height == width <= _SMALL_PX and terms <= _MOST_TERMS:
        return _enlarge(image, width)
    # (1, 3, H, W) in channels-last memory: twice as fast as planes. numpy copies and names axes faster than torch, and
    # `image[None]` would have a stride of 0, which torch does not take for channels-last.
    x = torch.from_numpy(np.ascontiguousarray(image).reshape(1, *image.shape)).permute(0, 3, 1, 2)
    x = functional.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return np.ascontiguousarray(x.numpy()[0].transpose(1, 2, 0))


def _enlarge(image: UInt8Array, side: int) -> UInt8Array:
    """Make a small image larger with two matrix products: the bytes of torch, which takes longer to call.

    float32 holds the sums exactly: bytes times weights of at most 15 bits.
    """
    height, width, _ = image.shape
    rows: NDArray[np.float32] = image.reshape(height, 3 * width).astype(np.float32) @ _enlarging(width, side, 3)
    rows = np.floor(rows + 0.5)  # torch, too, rounds to bytes between the two
    both: NDArray[np.float32] = _enlarging(height, side, 1).T @ rows
    return (both + 0.5).astype(np.uint8).reshape(side, side, 3)


@functools.cache
def _enlarging(length: int, side: int, channels: int) -> NDArray[np.float32]:
    """Return the (length * channels, side * channels) matrix that enlarges one axis, with torch's weights."""
    x = torch.eye(length, dtype=torch.float64)[None, None]
    weights = functional.interpolate(x, (length, side), mode="bilinear", antialias=True, align_corners=False)[0, 0]
    # For bytes torch makes them 16-bit integers, with as many bits as the largest allows.
    steps = 2**15 if weights.max() * 2**15 + 0.5 < 2**15 else 2**14
    rounded = torch.floor(weights * steps + 0.5) / steps
    return np.kron(rounded.numpy(), np.eye(channels)).astype(np.float32)


def _resize_part(image: UInt8Array, size: tuple[int, int], corner: tuple[int, int], side: int) -> UInt8Array:
    """Resize to `size` (height, width), but only the square of `side` px at `corner` (top, left) of the result.

    Pillow's filter, which torch's follows, takes a part with fractions of pixels; what its support reaches is cut out
    first, so that neither time nor memory depend on the longer side.
    """
    starts, spans, ends = [], [], []
    for length, resized, first in zip(image.shape, size, corner, strict=False):
        scale = length / resized
        low, high = first * scale, (first + side) * scale
        reach = math.ceil(max(scale, 1.0)) + 1
        start, end = max(0, math.floor(low) - reach), min(length, math.ceil(high) + reach)
        starts.append(start)
        ends.append(end)
        spans.append((low - start, min(high, length) - start))
    part = Image.fromarray(np.ascontiguousarray(image[starts[0] : ends[0], starts[1] : ends[1]]))
    (top, bottom), (left, right) = spans
    return np.array(part.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, right, bottom)))
