"""JPEG 2000: files and bare codestreams; more than 8 bits of colour through OpenCV."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from PIL import Image
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from moco_ray.data.formats.bad_image import BadImage
from moco_ray.data.formats.pillow import decode_with, image_to_rgb
from moco_ray.data.formats.samples import UInt8Array, check_size, grey_to_rgb, over_background, to_8_bits

FILE_MAGIC = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
CODESTREAM_MAGIC = b"\xff\x4f\xff\x51"

_SRGB, _GREY = 16, 17
_ALPHA, _PREMULTIPLIED = 1, 2


@dataclass(frozen=True, kw_only=True)
class _Header:
    width: int
    height: int
    bits: tuple[int, ...]
    is_signed: bool
    colour_space: int | None
    """The file's number of it; None: a bare codestream, or a profile."""
    is_file: bool
    alpha_kind: int
    """Of the last band: 0 none, 1 straight, 2 premultiplied."""
    has_palette: bool


def decode_jpeg2000(data: bytes, max_pixels: int) -> UInt8Array:
    """Decode a JPEG 2000 file.

    Raises:
        BadImage: If it is too large, damaged, or has bands of which it does not say that they are colours.
    """
    header = _read_header(data)
    check_size(header.width, header.height, max_pixels)
    bands, depth = len(header.bits), max(header.bits)
    what = f"JPEG 2000 with {bands} bands of {depth} bits"
    if bands > 4 or (bands == 4 and not header.alpha_kind and header.colour_space is None):
        raise BadImage(f"{what}; it does not say which of them are colours. Save three as RGB")
    if bands == 2 and not header.alpha_kind:
        raise BadImage(f"{what}, of which the second may be anything")
    if len(set(header.bits)) > 1 or depth > 16:
        raise BadImage(f"JPEG 2000 with bands of {', '.join(map(str, header.bits))} bits, which are not read")
    if bands > 1 and depth > 8 and (header.is_signed or bands == 2 or header.colour_space not in (_SRGB, None)):
        raise BadImage(f"{what} that are not plain RGB, which are not read")
    pixels = decode_with(Jpeg2KImageFile, data, max_pixels, to_rgb=partial(_to_rgb, header=header))
    return _deep_colour(data, header) if bands > 1 and depth > 8 else pixels


def _to_rgb(image: Image.Image, header: _Header) -> UInt8Array:
    if header.has_palette and image.mode not in ("P", "PA"):
        raise BadImage("JPEG 2000 with a palette that is not read")
    if len(header.bits) == 1 and image.mode != "P":
        # Pillow moves signed samples up by half the range, and 9 to 15 bits to the top of 16.
        values = np.asarray(image).astype(np.int32)
        if image.mode.startswith("I") and header.bits[0] < 16:
            values >>= 16 - header.bits[0]
        if header.is_signed:
            return grey_to_rgb(to_8_bits(values - 2 ** (max(header.bits[0], 8) - 1)))
        return grey_to_rgb(to_8_bits(values))
    if header.is_signed:
        raise BadImage("JPEG 2000 with signed colours, which are not read")
    if len(header.bits) == 4 and image.mode == "RGBA" and header.alpha_kind != _ALPHA:
        rgba = np.asarray(image)
        if header.alpha_kind == _PREMULTIPLIED:
            return over_background(rgba[..., :3], rgba[..., 3], is_premultiplied=True)
        return np.ascontiguousarray(rgba[..., :3])
    return image_to_rgb(image)


def _deep_colour(data: bytes, header: _Header) -> UInt8Array:
    """Decode colours of 9 to 16 bits, of which Pillow has kept the upper 8 (and has found no damage)."""
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    shape = (header.height, header.width, len(header.bits))
    if decoded is None or decoded.dtype != np.uint16 or decoded.shape != shape:
        raise BadImage("JPEG 2000 whose pixels do not decode")
    colours = to_8_bits(decoded[..., [2, 1, 0]])
    if not header.alpha_kind:
        return colours
    is_premultiplied = header.alpha_kind == _PREMULTIPLIED
    return over_background(colours, to_8_bits(decoded[..., 3]), is_premultiplied=is_premultiplied)


def _read_header(data: bytes) -> _Header:
    is_file = data.startswith(FILE_MAGIC)
    start = data.find(CODESTREAM_MAGIC)
    head = data[: max(start, 0)]
    try:
        x, y, x0, y0 = struct.unpack_from(">4I", data, start + 8)
        (bands,) = struct.unpack_from(">H", data, start + 40)
        depths = [data[start + 42 + 3 * i] for i in range(bands)]
    except (struct.error, IndexError) as error:
        raise BadImage("JPEG 2000 is truncated: its header is not whole") from error
    if start < 0 or not depths:
        raise BadImage("JPEG 2000 without pixels")
    return _Header(
        width=x - x0,
        height=y - y0,
        bits=tuple((depth & 0x7F) + 1 for depth in depths),
        is_signed=any(depth & 0x80 for depth in depths),
        colour_space=_colour_space(head),
        is_file=is_file,
        alpha_kind=_alpha_kind(head, bands),
        has_palette=b"pclr" in head,
    )


def _colour_space(head: bytes) -> int | None:
    at = head.find(b"colr")
    if at < 0 or head[at + 4 : at + 5] != b"\x01":
        return None
    return int.from_bytes(head[at + 7 : at + 11], "big")


def _alpha_kind(head: bytes, bands: int) -> int:
    """Read what the channel definitions say of the last band."""
    at = head.find(b"cdef")
    if at < 0:
        return 0
    (count,) = struct.unpack_from(">H", head.ljust(at + 6, b"\0"), at + 4)
    for i in range(min(count, 8)):
        band, kind, _ = struct.unpack_from(">3H", head.ljust(at + 60, b"\0"), at + 6 + 6 * i)
        if band == bands - 1 and kind in (_ALPHA, _PREMULTIPLIED):
            return int(kind)
    return 0
