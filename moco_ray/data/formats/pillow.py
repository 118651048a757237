"""Pillow under moco_ray's policies: one named plugin, our limit of pixels, no half pictures, no words on stderr."""

from __future__ import annotations

import ctypes
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import numpy as np
from PIL import Image, ImageCms, ImageFile, _imaging

from moco_ray.data.formats.bad_image import BadImage
from moco_ray.data.formats.orientation import find_orientation
from moco_ray.data.formats.samples import UInt8Array, check_size, grey_to_rgb, over_background, to_8_bits, turn

# Pillow's limits and libtiff's error handler belong to the process: the first decoder that enters sets them, the
# last that leaves puts back what the program around us had.
_lock = threading.Lock()
_inside = 0
_before: tuple[Any, ...] = ()
_libtiff_errors = threading.local()


def open_image(plugin: type[ImageFile.ImageFile], data: bytes) -> ImageFile.ImageFile:
    """Open bytes with one plugin, so that no other format is tried; the limit of pixels is ours to check."""
    return plugin(io.BytesIO(data))


def decode_with(
    plugin: type[ImageFile.ImageFile], data: bytes, max_pixels: int, *, to_rgb: Callable[[Image.Image], UInt8Array]
) -> UInt8Array:
    """Decode bytes with one of Pillow's plugins to upright pixels.

    Args:
        plugin: Of the format that the bytes have.
        data: The file's bytes.
        max_pixels: Largest width times height.
        to_rgb: Makes uint8 (H, W, 3) of the loaded image.

    Raises:
        BadImage: If the image is too large or libtiff met damage.
        Exception: Whatever the plugin raises.
    """
    with policies(), open_image(plugin, data) as image:
        check_size(*image.size, max_pixels)
        image.load()
        if image.format == "TIFF":  # turned while it was loaded
            return to_rgb(image)
        return turn(to_rgb(image), find_orientation(image.info.get("exif"), image.info.get("xmp")))


@contextmanager
def policies() -> Iterator[None]:
    """Hold Pillow to our policies: no limit of pixels but ours, a truncated file is an error, libtiff is silent.

    Raises:
        BadImage: If libtiff met an error that Pillow passes over.
    """
    global _inside, _before
    with _lock:
        _inside += 1
        if _inside == 1:
            _before = (
                Image.MAX_IMAGE_PIXELS,
                ImageFile.LOAD_TRUNCATED_IMAGES,
                _set_libtiff_handler(_HANDLER_ADDRESS),
            )
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
    _libtiff_errors.words = ""
    try:
        yield
        if _libtiff_errors.words:
            raise BadImage(f"TIFF is damaged ({_libtiff_errors.words})")
    except OSError as error:
        if _libtiff_errors.words:
            raise BadImage(f"TIFF is damaged ({_libtiff_errors.words})") from error
        raise
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = _before[:2]
                _set_libtiff_handler(_before[2])


def _keep(module: bytes | None, words: bytes | None, _: object) -> None:
    """Keep libtiff's first error of this thread; what follows a % was for printf."""
    if not getattr(_libtiff_errors, "words", ""):
        where = b"" if module in (None, b"tempfile.tif") else (module or b"") + b": "  # Pillow names a file that way
        _libtiff_errors.words = (where + (words or b"").split(b"%")[0]).decode("latin-1").strip(" :(,") or "libtiff"


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)(_keep)
_HANDLER_ADDRESS = ctypes.cast(_HANDLER, ctypes.c_void_p).value


def _set_libtiff_handler(handler: int | None) -> int | None:
    """Set the error handler of the libtiff that Pillow is linked to, and return the one before."""
    function = _libtiff_function()
    before: int | None = function(handler) if function else None
    return before


@cache
def _libtiff_function() -> Callable[[int | None], int | None] | None:
    try:
        function = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
    except (AttributeError, OSError):
        return None  # built without libtiff, or in a way that hides it: its words go to stderr
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p]
    return cast("Callable[[int | None], int | None]", function)


def image_to_rgb(image: Image.Image) -> UInt8Array:
    """Return the pixels of a loaded image, whatever its mode, as uint8 (H, W, 3)."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.array(image)
    if image.mode.startswith(("I", "F")):
        return grey_to_rgb(to_8_bits(np.asarray(image)))
    if image.mode == "LAB":
        return lab_to_rgb(image)
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if not image.has_transparency_data:
        return np.array(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA"))
    return over_background(rgba[..., :3], rgba[..., 3])


def lab_to_rgb(image: Image.Image) -> UInt8Array:
    """Convert CIE L*a*b* of white D50, Pillow's mode LAB, to sRGB."""
    to_srgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    converted = ImageCms.applyTransform(image, to_srgb)
    assert converted is not None
    return np.array(converted)
