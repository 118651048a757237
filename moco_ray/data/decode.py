"""Image bytes to pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moco_ray.data.formats.bad_image import BadImage
from moco_ray.data.formats.known import find_format

__all__ = ["BadImage", "decode_image"]

UInt8Array = NDArray[np.uint8]


def decode_image(data: bytes, *, max_pixels: int) -> UInt8Array:
    """Decode an image file to upright RGB; docs/images.md says what becomes what.

    EXIF orientation is applied. Of an animation the first picture counts, of a TIFF the first page. Palettes and grey
    become RGB, alpha is put on white. Samples of more than 8 bits are scaled by the smallest of 8, 10, 12, 14 and 16
    bits that holds their maximum, floating point and negative values from minimum to maximum. ICC profiles are not
    applied, as in torchvision's loader.

    Args:
        data: The file's bytes.
        max_pixels: Largest width times height; checked from the header, before memory is taken.

    Returns:
        uint8 (H, W, 3), contiguous, writable.

    Raises:
        BadImage: If the bytes do not decode, the image is too large, or it does not say what its samples mean. No
            other exception, whatever the bytes.
    """
    if not data:
        raise BadImage("empty file")
    kind = None
    try:
        kind = find_format(data)
        pixels = np.ascontiguousarray(kind.decode(data, max_pixels))
        return pixels if pixels.flags.writeable else pixels.copy()
    except BadImage:
        raise
    except Exception as error:  # Pillow's plugins raise whatever their parsers run into.
        raise BadImage(_reason(error, kind.name if kind else "image")) from error


def _reason(error: Exception, name: str) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    if "truncated" in words or isinstance(error, EOFError):
        words = f"truncated ({words})"
    return f"{name} does not decode: {words}"[:140]
