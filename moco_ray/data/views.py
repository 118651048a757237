"""Two random views of an image: the augmentations of MoCo v1, v2, v3, SimCLR and the CIFAR demo, on uint8.

The transforms are torchvision's, drawn as torchvision draws them; what differs is how they are computed. Crops are
array slices, the resize is torch's antialiased uint8 kernel, brightness, contrast, saturation and grayscale are
colour matrices that clip where Pillow's do. The tests hold the result to Pillow's: on photos 0.4 to 0.5 grey levels
away on average (v1: 0.6), at most 3 or 4 in 99 % of the values, and up to 2 in the mean of a single view.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from moco_ray.data.colour import BRIGHTNESS, CONTRAST, HUE, SATURATION, blur, jitter, solarize

UInt8Array = NDArray[np.uint8]

# Sides of torchvision's RandomResizedCrop, and how often it tries before it takes the centre.
_RATIO_MIN, _RATIO_MAX = 3 / 4, 4 / 3
_LOG_RATIO_MIN, _LOG_RATIO_MAX = math.log(_RATIO_MIN), math.log(_RATIO_MAX)
_CROP_TRIES = 10
# A centre view resizes the whole picture up to this ratio of its sides, and beyond it only the part that it shows.
_MOST_RESIZED = 4
_ORDERS = tuple(itertools.permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE)))


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """Augmentation of the two views of an image; probabilities are per view."""

    crop_px: int = 224
    """Side of a view after RandomResizedCrop, in pixels."""
    crop_min: float = 0.2
    """Smallest share of the image's area that a crop covers; the largest is 1. MoCo: 0.2; v3's ViT: 0.08."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    """Strength of brightness, contrast, saturation and hue, as in torchvision's ColorJitter."""
    jitter_p: float = 0.8
    """Probability of the colour jitter."""
    grayscale_p: float = 0.2
    """Probability of turning a view grey."""
    grayscale_first: bool = False
    """Grey before the jitter (v1) and not after it (v2)."""
    blur_p: tuple[float, float] = (0.5, 0.5)
    """Probability of a Gaussian blur, in view 1 and view 2."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation, in pixels of the view."""
    solarize_p: tuple[float, float] = (0.0, 0.0)
    """Probability of inverting pixels of 128 and more, in view 1 and view 2 (v3: 0 and 0.2)."""
    flip_p: float = 0.5
    """Probability of a horizontal flip."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green and blue in [0, 1], subtracted on the accelerator. ImageNet's."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of red, green and blue in [0, 1], divided by on the accelerator. ImageNet's."""

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: If a size, a probability or a range is impossible.
        """
        if self.crop_px < 1:
            raise ValueError(f"views.crop-px is {self.crop_px}; use at least 1, normally 224")
        if not 0 < self.crop_min <= 1:
            raise ValueError(f"views.crop-min is {self.crop_min}; it is a share of the area, in (0, 1]")
        chances = (self.jitter_p, self.grayscale_p, self.flip_p, *self.blur_p, *self.solarize_p)
        if not all(0 <= chance <= 1 for chance in chances):
            raise ValueError(f"the probabilities of views must lie in [0, 1]; they are {chances}")
        if min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise ValueError(f"views.jitter is {self.jitter}; use strengths >= 0, and a hue of at most 0.5")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError(f"views.blur-sigma is {self.blur_sigma}; use a range above 0, such as 0.1 2.0")
        if min(self.std) <= 0:
            raise ValueError(f"views.std is {self.std}; use values above 0")


def v1_views(crop_px: int = 224) -> ViewsConfig:
    """Return the views of MoCo v1 (He et al. 2020, arXiv:1911.05722): grey first, always jittered, no blur."""
    return ViewsConfig(
        crop_px=crop_px, jitter=(0.4, 0.4, 0.4, 0.4), jitter_p=1.0, grayscale_first=True, blur_p=(0.0, 0.0)
    )


def v2_views(crop_px: int = 224) -> ViewsConfig:
    """Return the views of MoCo v2 (Chen et al. 2020, arXiv:2003.04297): SimCLR's with a milder jitter."""
    return ViewsConfig(crop_px=crop_px)


def v3_views(crop_px: int = 224, crop_min: float = 0.2) -> ViewsConfig:
    """Return the views of MoCo v3 (Chen et al. 2021, arXiv:2104.02057): BYOL's two, one blurred, one solarized."""
    return ViewsConfig(
        crop_px=crop_px, crop_min=crop_min, jitter=(0.4, 0.4, 0.2, 0.1), blur_p=(1.0, 0.1), solarize_p=(0.0, 0.2)
    )


def simclr_views(crop_px: int = 224) -> ViewsConfig:
    """Return the views of SimCLR (Chen et al. 2020, arXiv:2002.05709, Appendix A) with colours at strength 1."""
    return ViewsConfig(crop_px=crop_px, crop_min=0.08, jitter=(0.8, 0.8, 0.8, 0.2))


def cifar_views() -> ViewsConfig:
    """Return the views of the MoCo authors' CIFAR-10 demo: 32 px crops of 0.08 and up, no blur."""
    return ViewsConfig(
        crop_px=32,
        crop_min=0.08,
        jitter=(0.4, 0.4, 0.4, 0.1),
        blur_p=(0.0, 0.0),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    )


@dataclass(frozen=True, kw_only=True)
class ViewDraw:
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
    top, left, height, width = draw.crop
    x = _resize(image[top : top + height, left : left + width], config.crop_px, config.crop_px)
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
    if draw.is_solarized:
        x = solarize(x)
    return np.ascontiguousarray(x[:, ::-1]) if draw.is_flipped else x


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
    height, width = image.shape[:2]
    draw = draw_view(height, width, config, seed=seed, position=position, view=view)
    return apply_view(image, draw, config)


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
        return np.ascontiguousarray(_resize(image, height, width)[top : top + crop_px, left : left + crop_px])
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


def _between(low: float, high: float, uniform: float) -> float:
    return low + (high - low) * uniform


def _resize(image: UInt8Array, height: int, width: int) -> UInt8Array:
    """Resize with an antialiased bilinear filter, Pillow's within 0.04 grey levels."""
    if image.shape[:2] == (height, width):
        return image.copy()
    # (1, 3, H, W) in channels-last memory: twice as fast as planes, and the result needs no transpose.
    x = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)
    x = functional.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return np.ascontiguousarray(x[0].permute(1, 2, 0).numpy())


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
