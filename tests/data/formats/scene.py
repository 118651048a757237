"""One scene, and files of it written by hand, so that no decoder's idea of a format matters."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from moco_ray.data.decode import BadImage, decode_image

MAX_PIXELS = 1_000_000

Y, X = np.mgrid[:40, :52]
RAMP = (X * 5).astype(np.uint8)
"""Grey levels of 0 to 255, (40, 52)."""
RGB = np.stack([RAMP, 255 - RAMP, (Y * 255 // 39).astype(np.uint8)], axis=2)
GREY = np.repeat(RAMP[:, :, None], 3, axis=2)
ALPHA = np.clip(X * 8 - 60, 0, 255).astype(np.uint8)
ON_WHITE = RGB * (ALPHA[..., None] / 255) + 255 - ALPHA[..., None]
GREY_ON_WHITE = GREY * (ALPHA[..., None] / 255) + 255 - ALPHA[..., None]
PREMULTIPLIED = np.round(RGB * (ALPHA[..., None] / 255)).astype(np.uint8)


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    pixels = decode_image(data, max_pixels=max_pixels)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert pixels.flags.writeable and pixels.flags.c_contiguous
    return pixels


def distance(data: bytes, wanted: np.ndarray) -> float:
    """The mean difference between what is decoded and the scene, in grey levels."""
    pixels = decode(data)
    assert pixels.shape == wanted.shape
    return float(np.abs(pixels.astype(float) - wanted).mean())


def reason(data: bytes, max_pixels: int = MAX_PIXELS) -> str:
    try:
        decode_image(data, max_pixels=max_pixels)
    except BadImage as error:
        assert len(str(error)) < 170
        return str(error)
    raise AssertionError("it was decoded")


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(rows: np.ndarray, depth: int, colour: int, extra: bytes = b"", width: int | None = None) -> bytes:
    """A PNG of packed rows, uint8 (H, bytes a row)."""
    height = len(rows)
    header = struct.pack(">IIBBBBB", width or rows.shape[1] * 8 // depth, height, depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def png16(samples: np.ndarray, extra: bytes = b"") -> bytes:
    """A PNG of 16 bits of uint16 (H, W, 1 to 4)."""
    height, width, channels = samples.shape
    rows = np.ascontiguousarray(samples.astype(">u2")).view(np.uint8).reshape(height, -1)
    return png(rows, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], extra, width)


def rgb_png(extra: bytes = b"") -> bytes:
    return png(RGB.reshape(len(RGB), -1), 8, 2, extra, RGB.shape[1])


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Pack (H, W) values of fewer than 16 bits into rows of whole bytes."""
    spread = (values[..., None].astype(np.uint16) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(spread.reshape(len(values), -1).astype(np.uint8), axis=1)


def tiff(samples: np.ndarray, **options: Any) -> bytes:
    """tifffile's file of an array."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, metadata=None, **options)
    return buffer.getvalue()


def raw_tiff(rows: np.ndarray, tags: dict[int, tuple[int, ...]], order: str = "<") -> bytes:
    """An uncompressed TIFF of one strip; numbers of 16 bits, but sizes and places."""
    tags = {259: (1,), 277: (1,), 278: (len(rows),), **tags, 273: (0,), 279: (rows.nbytes,)}
    long_at = 8 + 2 + 12 * len(tags) + 4
    # The arrays lie in the order of their tags.
    arrays = b"".join(struct.pack(f"{order}{len(v)}H", *v) for _, v in sorted(tags.items()) if len(v) > 2)
    tags[273] = (long_at + len(arrays),)
    entries, at = b"", long_at
    for tag, values in sorted(tags.items()):
        is_long = tag in (256, 257, 273, 278, 279)
        if len(values) > 2:
            place, at = struct.pack(order + "I", at), at + 2 * len(values)
        else:
            place = struct.pack(f"{order}{len(values)}{'I' if is_long else 'H'}", *values).ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, 4 if is_long else 3, len(values)) + place
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "IH", 8, len(tags)) + entries + b"\0\0\0\0"
    return head + arrays + rows.tobytes()
