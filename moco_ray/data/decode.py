"""Image bytes to pixels: plain JPEGs through libjpeg-turbo, everything else through Pillow."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

UInt8Array = NDArray[np.uint8]

_ORIENTATION_TAG = 0x0112
_DEPTHS = (8, 10, 12, 14, 16)


class BadImage(ValueError):
    """Bytes that arrived whole but are not an image that can be used; the message says why, in a few words."""


def decode_image(data: bytes, *, max_pixels: int) -> UInt8Array:
    """Decode an image file to upright RGB.

    EXIF orientation is applied. Of an animation the first frame counts. Palettes and grey become RGB. Alpha is
    dropped and the colours under it are kept, as in torchvision's loader. Grey images of more than 8 bits are scaled
    by the smallest of 8, 10, 12, 14 and 16 bits that holds their maximum, floating point from minimum to maximum.

    Args:
        data: The file's bytes.
        max_pixels: Largest width times height; checked from the header, before memory is taken.

    Returns:
        uint8 (H, W, 3), writable.

    Raises:
        BadImage: If the bytes do not decode or the image is too large. No other exception, whatever the bytes.
    """
    if not data:
        raise BadImage("empty file")
    try:
        if data[:3] == b"\xff\xd8\xff":
            pixels = _decode_plain_jpeg(data, max_pixels)
            if pixels is not None:
                return pixels
        return _decode_any(data, max_pixels)
    except BadImage:
        raise
    except Exception as error:  # Pillow's plugins raise whatever their parsers run into.
        raise BadImage(_reason(error)) from error


def _decode_plain_jpeg(data: bytes, max_pixels: int) -> UInt8Array | None:
    """Decode an upright RGB or grey JPEG; None leaves it to Pillow."""
    if _has_app1(data) and not _is_upright(data):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "RGB", "Gray"):
            return None
        _check_size(width, height, max_pixels)
        pixels: UInt8Array = simplejpeg.decode_jpeg(data, "RGB")
    except BadImage:
        raise
    except (ValueError, RuntimeError):
        # Warnings count as errors here. Pillow forgives some of them, and it decides.
        return None
    return pixels


def _has_app1(data: bytes) -> bool:
    """Whether a JPEG's header has an APP1 segment, the only place of an orientation (EXIF or XMP)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xE1:
            return True
        if marker == 0xDA:  # the scan begins
            return False
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _is_upright(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        return _orientation(image) == 1


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation, 1 where there is none or it cannot be read: a broken tag is no broken image."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _decode_any(data: bytes, max_pixels: int) -> UInt8Array:
    with Image.open(io.BytesIO(data)) as image:
        _check_size(*image.size, max_pixels)
        image.load()
        # Only now: PNG may store EXIF behind the pixels, and Pillow turns TIFF files while loading.
        upright = ImageOps.exif_transpose(image) if _orientation(image) != 1 else image
        if upright.mode.startswith(("I", "F")):
            gray = _to_8_bits(np.asarray(upright))
            return np.repeat(gray[:, :, None], 3, axis=2)
        return np.array(upright.convert("RGB"))


def _to_8_bits(values: NDArray[np.generic]) -> UInt8Array:
    """Scale grey values of any type to uint8."""
    if np.issubdtype(values.dtype, np.floating):
        finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(finite.min()), float(finite.max())
        scaled = (finite - low) * (255 / (high - low)) if high > low else np.zeros_like(finite)
        return np.asarray(np.round(scaled), dtype=np.uint8)
    integers = np.maximum(values.astype(np.int64), 0)
    needed = int(integers.max()).bit_length()
    depth = next((depth for depth in _DEPTHS if depth >= needed), needed)
    return np.asarray(integers * 255 // (2**depth - 1), dtype=np.uint8)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadImage(f"{width} x {height} pixels are more than data.max-pixels = {max_pixels}")
    if width < 1 or height < 1:
        raise BadImage(f"{width} x {height} pixels")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    words = " ".join(str(error).split()) or type(error).__name__
    return words[:120]
