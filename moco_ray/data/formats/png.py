"""PNG: the chunks that make pixels, checked; text, profiles and animations are left out before a decoder sees them."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from moco_ray.data.formats.bad_image import BadImage
from moco_ray.data.formats.orientation import find_orientation
from moco_ray.data.formats.pillow import image_to_rgb, open_image, policies
from moco_ray.data.formats.samples import (
    Samples,
    UInt8Array,
    check_size,
    grey_to_rgb,
    over_background,
    to_8_bits,
    turn,
)

MAGIC = b"\x89PNG\r\n\x1a\n"

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}
_DEPTHS = {_GREY: (1, 2, 4, 8, 16), _RGB: (8, 16), _PALETTE: (1, 2, 4, 8), _GREY_ALPHA: (8, 16), _RGBA: (8, 16)}
_OF_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_LAST_FILTER = 4
_PIECE = 2**20
# Adam7: first row, first column, steps down and across.
_PASSES = (
    (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1),
)  # fmt: skip
_LARGEST_METADATA = 2**20


@dataclass(frozen=True, kw_only=True)
class _Png:
    width: int
    height: int
    depth: int
    colour: int
    is_interlaced: bool
    key: tuple[int, ...]
    """tRNS of grey and RGB: the one colour that is transparent."""
    orientation: int
    content: dict[bytes, list[bytes]] = field(repr=False)


def decode_png(data: bytes, max_pixels: int) -> UInt8Array:
    """Decode a PNG, or the default picture of an animated one.

    Raises:
        BadImage: If chunks of the pixels are damaged or missing, or the image is too large.
    """
    png = _read_chunks(data, max_pixels)
    if png.depth == 16 and png.colour != _GREY:
        return turn(_deep_colour(png), png.orientation)
    with policies(), open_image(PngImageFile, _written(png)) as image:
        image.load()
        # Pillow leaves rows that the stream does not hold at 0.
        last = (image.crop((0, max(0, png.height - back), png.width, png.height - back + 1)) for back in (1, 2))
        if not all(row.getbbox(alpha_only=False) for row in last):
            _check_stream(png)
        if png.key:
            return turn(_keyed(np.asarray(image), png), png.orientation)
        return turn(image_to_rgb(image), png.orientation)


def _read_chunks(data: bytes, max_pixels: int) -> _Png:
    content: dict[bytes, list[bytes]] = {}
    exif, xmp, at = b"", b"", len(MAGIC)
    while at + 8 <= len(data) and b"IEND" not in content:
        length, name = struct.unpack_from(">I4s", data, at)
        body, crc = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        at += 12 + length
        is_whole = len(crc) == 4 and zlib.crc32(body, zlib.crc32(name)) == int.from_bytes(crc, "big")
        if name == b"CgBI":
            raise BadImage("PNG in Apple's own variant (CgBI)")
        if name in _OF_PIXELS or not name[0] & 0x20:
            if len(crc) < 4 and name != b"IEND":
                raise BadImage(f"PNG is truncated: it ends inside chunk {_spelled(name)}")
            if not is_whole and name != b"IEND":
                raise BadImage(f"PNG with a broken checksum in chunk {_spelled(name)}")
            content.setdefault(name, []).append(body)
        elif is_whole and length <= _LARGEST_METADATA:
            exif, xmp = exif or _exif(name, body), xmp or _xmp(name, body)
        if name == b"IHDR":
            check_size(int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big"), max_pixels)
    return _checked(content, find_orientation(exif, xmp))


def _checked(content: dict[bytes, list[bytes]], orientation: int) -> _Png:
    header = b"".join(content.get(b"IHDR", ()))
    if len(header) != 13:
        raise BadImage("PNG without a header or with several")
    width, height, depth, colour, compression, filters, interlace = struct.unpack(">IIBBBBB", header)
    if depth not in _DEPTHS.get(colour, ()) or compression or filters or interlace > 1:
        raise BadImage(f"PNG of an unknown kind (colour type {colour} of {depth} bits)")
    if colour == _PALETTE and b"PLTE" not in content:
        raise BadImage("PNG without its palette")
    if b"IDAT" not in content:
        raise BadImage("PNG is truncated: it ends before the pixels")
    transparent, key = content.get(b"tRNS", [b""])[0], ()
    # One of a wrong length says nothing, and libpng passes over it.
    if colour == _PALETTE and len(transparent) > len(content[b"PLTE"][0]) // 3:
        del content[b"tRNS"]
    elif colour in (_GREY, _RGB) and len(transparent) == 2 * _CHANNELS[colour]:
        key = struct.unpack(f">{_CHANNELS[colour]}H", transparent)
    return _Png(
        width=width,
        height=height,
        depth=depth,
        colour=colour,
        is_interlaced=interlace == 1,
        key=key,
        orientation=orientation,
        content=content,
    )


def _written(png: _Png) -> bytes:
    """Write a PNG of the chunks that make pixels; the key is applied to the samples, and no palette is needed there."""
    parts = [MAGIC]
    for name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT"):
        if name in (b"PLTE", b"tRNS") and png.colour != _PALETTE:
            continue
        for body in png.content.get(name, ()):
            parts += [struct.pack(">I", len(body)), name, body, struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))]
    return b"".join([*parts, b"\0\0\0\0IEND", struct.pack(">I", zlib.crc32(b"IEND"))])


def _deep_colour(png: _Png) -> UInt8Array:
    """Decode 16-bit colours, of which Pillow would keep the upper half; alpha has a depth of its own."""
    if not _check_stream(png):
        raise BadImage("PNG is truncated: its pixels end before their checksum")
    decoded = cv2.imdecode(np.frombuffer(_written(png), np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16 or decoded.shape[:2] != (png.height, png.width):
        raise BadImage("PNG whose pixels do not decode")
    samples: Samples = decoded[..., [2, 1, 0, 3][: decoded.shape[2]]]
    if png.key:
        return _keyed(samples, png)
    colours = to_8_bits(samples[..., :3])
    return over_background(colours, to_8_bits(samples[..., 3])) if samples.shape[2] == 4 else colours


def _check_stream(png: _Png) -> bool:
    """Inflate the pixels, in pieces, and check rows and filters: decoders fill up what is missing, OpenCV prints it.

    Returns:
        Whether the pixels do not end before their checksum.

    Raises:
        BadImage: If rows are missing or their filters do not exist.
    """
    inflate, num_bytes, wrong = zlib.decompressobj(), 0, []
    starts, needed = _row_starts(png)
    try:
        for body in png.content[b"IDAT"]:
            while num_bytes <= 2 * needed and not inflate.eof:
                piece = np.frombuffer(inflate.decompress(body, _PIECE), np.uint8)
                first, last = np.searchsorted(starts, [num_bytes, num_bytes + len(piece)])
                wrong += (first + np.flatnonzero(piece[starts[first:last] - num_bytes] > _LAST_FILTER)[:1]).tolist()
                num_bytes += len(piece)
                body = inflate.unconsumed_tail
                if not body and len(piece) < _PIECE:
                    break
    except zlib.error as error:
        raise BadImage(f"PNG whose pixels do not inflate ({error})") from error
    if num_bytes < needed:
        raise BadImage("PNG is truncated: rows of pixels are missing")
    if wrong:
        raise BadImage(f"PNG whose row {wrong[0]} has a filter that does not exist")
    return inflate.eof or num_bytes > 2 * needed


def _row_starts(png: _Png) -> tuple[NDArray[np.int64], int]:
    """Return where the rows of the inflated stream begin, each with its filter, and the stream's length."""
    heights, sizes = [], []
    for top, left, down, across in _PASSES if png.is_interlaced else ((0, 0, 1, 1),):
        height, width = max(0, -(-(png.height - top) // down)), max(0, -(-(png.width - left) // across))
        heights.append(height if width else 0)
        sizes.append(1 + (width * png.depth * _CHANNELS[png.colour] + 7) // 8)
    ends = np.cumsum(np.repeat(np.array(sizes, np.int64), heights))
    return np.concatenate([[0], ends[:-1]]), int(ends[-1])


def _keyed(samples: Samples, png: _Png) -> UInt8Array:
    """Apply the one transparent colour, compared at the depth that the file has."""
    if png.colour == _GREY:
        # Pillow has spread 1, 2 and 4 bits over 0..255, or to booleans.
        step = 1 if png.depth in (1, 16) else 255 // (2**png.depth - 1)
        is_clear = samples == samples.dtype.type(min(png.key[0] * step, 2**16 - 1 if png.depth == 16 else 255))
        colours = grey_to_rgb(to_8_bits(samples))
    else:
        is_clear = (samples == np.array(png.key)).all(axis=2)
        colours = to_8_bits(samples)
    return over_background(colours, np.where(is_clear, np.uint8(0), np.uint8(255)))


def _exif(name: bytes, body: bytes) -> bytes:
    """Return EXIF, which some programs write as hexadecimal text."""
    keyword, _, rest = body.partition(b"\0")
    if name == b"eXIf":
        return body
    if name not in (b"tEXt", b"zTXt") or keyword not in (b"Raw profile type exif", b"Raw profile type APP1"):
        return b""
    try:
        text = rest if name == b"tEXt" else zlib.decompressobj().decompress(rest[1:], _LARGEST_METADATA)
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except (ValueError, zlib.error):
        return b""


def _xmp(name: bytes, body: bytes) -> bytes:
    keyword, _, rest = body.partition(b"\0")
    return rest if name == b"iTXt" and keyword == b"XML:com.adobe.xmp" else b""


def _spelled(name: bytes) -> str:
    return name.decode("ascii") if name.isalpha() and name.isascii() else repr(name)
