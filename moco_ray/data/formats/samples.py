"""Samples of any depth to 8 bits, alpha to a background, orientation to upright."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco_ray.data.formats.bad_image import BadImage

UInt8Array = NDArray[np.uint8]
Samples = NDArray[np.generic]

_Gap = tuple[float, float]
_LARGEST = (float(np.finfo(np.float32).max), float(np.finfo(np.float64).max))
_NEAR = 1e-5

_DEPTHS = (8, 10, 12, 14, 16)
_BLOCK = 2**20
_FAINT = 240


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Check a size before memory is taken.

    Raises:
        BadImage: If it is 0 or more than `max_pixels`.
    """
    if width * height > max_pixels:
        raise BadImage(f"{width} x {height} pixels are more than data.max-pixels = {max_pixels}")
    if width < 1 or height < 1:
        raise BadImage(f"{width} x {height} pixels")


def to_8_bits(values: Samples, *, missing: float | None = None, depth: int | None = None) -> UInt8Array:
    """Scale samples of any type to uint8, all channels by the same factor.

    Unsigned integers are divided by the largest value of the smallest of 8, 10, 12, 14 and 16 bits that holds their
    maximum: pictures of one camera stay comparable. Signed integers with a value below 0 and floating point go from
    their minimum to their maximum.

    Args:
        values: Any shape.
        missing: A value that stands for "no data": it counts for no maximum and becomes the darkest level. Files say
            it as text with more or fewer digits than the samples have.
        depth: Bits of the unsigned values, where the file is to be believed.

    Returns:
        uint8 of the same shape.

    Raises:
        BadImage: If no value is finite.
    """
    if values.dtype == np.bool_:
        return np.where(values, np.uint8(255), np.uint8(0))
    if values.dtype == np.uint8 and missing is None and depth in (None, 8):
        return np.ascontiguousarray(values, dtype=np.uint8)
    gap = _gap(values.dtype, missing)
    low, high = _range(values, gap)
    is_float = np.issubdtype(values.dtype, np.floating)
    if not is_float and low >= 0:
        needed = int(high).bit_length()
        bits = depth or next((usual for usual in _DEPTHS if usual >= needed), needed)
        low, high = 0, 2**bits - 1
        if values.dtype == np.uint16 and missing is None:
            table: UInt8Array = np.minimum(np.arange(2**16) * 255 // high, 255).astype(np.uint8)
            return np.take(table, values.astype(np.uint16, copy=False))
    scaled = np.empty(values.shape, np.uint8)
    flat, out = values.reshape(-1), scaled.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.float64)
        usable = _usable(block, gap)
        block = np.where(usable, block, np.where(block == np.inf, high, low))
        # Differences of floats near the largest overflow; halves do not.
        share = (block / 2 - low / 2) / (high / 2 - low / 2) * 255 if high > low else np.zeros_like(block)
        if not is_float and low == 0:
            share = np.floor(block * 255 / high)
        out[start : start + _BLOCK] = np.clip(np.round(share), 0, 255)
    return scaled


def _range(values: Samples, gap: _Gap | None) -> tuple[float, float]:
    """Return minimum and maximum of the samples that say something."""
    if not np.issubdtype(values.dtype, np.floating) and gap is None:
        return int(values.min()), int(values.max())
    lows, highs = [], []
    for block in _blocks(values):
        usable = block[_usable(block, gap)]
        if usable.size:
            lows.append(usable.min())
            highs.append(usable.max())
    if not lows:
        raise BadImage("no sample has a value")
    return float(min(lows)), float(max(highs))


def _blocks(values: Samples) -> Iterator[NDArray[np.float64]]:
    flat = values.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        yield flat[start : start + _BLOCK].astype(np.float64)


def _gap(kind: np.dtype[Any], missing: float | None) -> _Gap | None:
    """Return the values that are no data: the one, as the samples' type can hold it, or all that are near the largest."""
    if missing is not None and np.issubdtype(kind, np.floating):
        with np.errstate(over="ignore"):
            missing = float(kind.type(missing))
    if missing is None or not math.isfinite(missing):
        return None  # NaN and infinity never count
    is_largest = any(math.isclose(abs(missing), largest, rel_tol=_NEAR) for largest in _LARGEST)
    margin = _NEAR * abs(missing) if is_largest else 0.0
    return missing - margin, missing + margin


def _usable(block: NDArray[np.float64], gap: _Gap | None) -> NDArray[np.bool_]:
    usable = np.isfinite(block)
    return usable if gap is None else usable & ((block < gap[0]) | (block > gap[1]))


def over_background(colours: UInt8Array, alpha: UInt8Array, *, is_premultiplied: bool = False) -> UInt8Array:
    """Put colours on white, as browsers show them.

    On black where white would leave nothing to see: icons drawn in white. An alpha of 0 everywhere was never set,
    and the colours count.

    Args:
        colours: uint8 (H, W, 3).
        alpha: uint8 (H, W), 255 is opaque.
        is_premultiplied: Whether the colours were multiplied by alpha ("associated").

    Returns:
        uint8 (H, W, 3).
    """
    if (alpha == 255).all():
        return np.ascontiguousarray(colours)
    if not alpha.any():
        return np.ascontiguousarray(colours) if np.ptp(colours) else np.full_like(colours, 255)
    on_white, on_black = np.empty_like(colours), np.empty_like(colours)
    rows = max(1, _BLOCK // max(1, colours.shape[1]))
    for top in range(0, len(colours), rows):
        a = alpha[top : top + rows, :, None].astype(np.uint16)
        colour = colours[top : top + rows].astype(np.uint16)
        drawn = np.minimum(colour, a) if is_premultiplied else (colour * a + 127) // 255
        on_black[top : top + rows] = drawn
        on_white[top : top + rows] = drawn + (255 - a)
    return on_black if on_white.min() >= _FAINT else on_white


def grey_to_rgb(grey: UInt8Array) -> UInt8Array:
    """Repeat grey levels (H, W) for three channels (H, W, 3)."""
    return np.repeat(grey[:, :, None], 3, axis=2)


def turn(pixels: UInt8Array, orientation: int) -> UInt8Array:
    """Turn pixels (H, W, ...) upright, given their EXIF orientation of 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
