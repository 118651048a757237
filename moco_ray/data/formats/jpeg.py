"""JPEG: through libjpeg-turbo; four-coloured files, and those it only warns of, through Pillow."""

from __future__ import annotations

import re
from typing import NamedTuple

from PIL.JpegImagePlugin import JpegImageFile

from moco_ray.data.formats.bad_image import BadImage
from moco_ray.data.formats.orientation import find_orientation
from moco_ray.data.formats.pillow import decode_with, image_to_rgb
from moco_ray.data.formats.samples import UInt8Array, check_size, turn

MAGIC = b"\xff\xd8\xff"

_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_END = b"\xff\xd9"
_SCAN = b"\xff\xda"
# libjpeg-turbo's own advice is to refuse more than 500; encoders write about 10.
_MAX_SCANS = 100
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD8))  # TEM and RST0 to RST7
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
# Warnings after which pixels were made up. libjpeg-turbo tells the first one alone.
_DAMAGE = ("premature end", "Premature end", "bad Huffman code", "bad arithmetic code", "instead of RST")
_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_MAX_STRAY_BYTES = 16


class _Header(NamedTuple):
    frame: int = 0
    bits: int = 8
    height: int = 0
    width: int = 0
    num_components: int = 0
    orientation: int = 1
    end: int = 0
    """Where the frame's header ends."""


def decode_jpeg(data: bytes, max_pixels: int) -> UInt8Array:
    """Decode a JPEG. One that lacks only its end marker is whole.

    Raises:
        BadImage: If the file is truncated, too large, damaged or of a kind that is not read.
    """
    header = _read_header(data)
    data, pixels = _decode_checked(data, header, max_pixels)
    if pixels is not None:
        return turn(pixels, header.orientation)
    return decode_with(JpegImageFile, data, max_pixels, to_rgb=image_to_rgb)


def check_jpeg(data: bytes, width: int, height: int, max_pixels: int) -> None:
    """Check a JPEG that another decoder will read as `decode_jpeg` does, at an eighth of the size, which costs less.

    Raises:
        BadImage: If it is truncated, too large, damaged or smaller than `width` x `height`.
    """
    header = _read_header(data)
    _decode_checked(data, header, max_pixels, shrink=8)
    if header.width < width or header.height < height:
        raise BadImage(f"JPEG of {header.width} x {header.height} pixels, where {width} x {height} are needed")


def _decode_checked(
    data: bytes, header: _Header, max_pixels: int, *, shrink: int = 1
) -> tuple[bytes, UInt8Array | None]:
    """Return the file with its end marker, and its pixels if libjpeg-turbo decodes it without a word."""
    if header.frame:
        if header.bits != 8:
            raise BadImage(f"JPEG of {header.bits} bits; convert it to PNG or TIFF")
        check_size(header.width, header.height, max_pixels)
        if header.frame in _PROGRESSIVE and data.count(_SCAN) > _MAX_SCANS:
            raise BadImage(f"JPEG of {data.count(_SCAN)} scans; more than {_MAX_SCANS} are refused")
    pixels, problem = _turbo(data, header, shrink)
    if not problem:
        return data, pixels
    if "Premature end of JPEG file" in problem and _END not in data[-2:]:
        data += _END
        pixels, problem = _turbo(data, header, shrink)
        if problem or (header.frame in _PROGRESSIVE and not _has_all_scans(data, header)):
            raise BadImage("JPEG is truncated")
    if any(words in problem for words in _DAMAGE) or _has_stray_codes(data, header, problem):
        raise BadImage(f"JPEG is damaged or truncated ({problem})")
    return data, pixels


def _turbo(data: bytes, header: _Header, shrink: int) -> tuple[UInt8Array | None, str]:
    """Decode a JPEG of any colours; what libjpeg-turbo minds is no picture but words, and Pillow may forgive it."""
    import simplejpeg  # here, so that views and models work where it is not installed

    try:
        # One component is grey and three are YCbCr or RGB: that needs no other look at the header.
        if header.num_components in (1, 3) or simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "RGB", "Gray"):
            return simplejpeg.decode_jpeg(data, "RGB", min_factor=shrink), ""
        if header.num_components == 4:
            simplejpeg.decode_jpeg(data, "CMYK", min_factor=shrink)
    except (ValueError, RuntimeError) as error:
        return None, str(error)
    return None, ""


def _has_stray_codes(data: bytes, header: _Header, problem: str) -> bool:
    """Whether a scan ended before its codes did, so that it was decoded from wrong ones.

    A few bytes before the end marker harm nothing, nor does padding of any length with one value.
    """
    found = _STRAY.search(problem)
    if found is None or header.end == 0:
        return False
    count, marker = int(found[1]), bytes([0xFF, int(found[2], 16)])
    if marker != _END:
        return True
    end = data.find(_END, header.end)
    return count > _MAX_STRAY_BYTES and len(set(data[max(0, end - count) : end])) > 1


def _has_all_scans(data: bytes, header: _Header) -> bool:
    """Whether the scans of a progressive JPEG reach the last bit of every coefficient of every component."""
    missing: dict[tuple[int, int], int] = {}
    at = header.end
    while (at := data.find(_SCAN, at)) >= 0:
        count = data[at + 4]
        first, last, bits = data[at + 5 + 2 * count : at + 8 + 2 * count]
        for component in data[at + 5 : at + 5 + 2 * count : 2]:
            missing |= {(component, coefficient): bits & 15 for coefficient in range(first, min(last, 63) + 1)}
        at += 2
    return len(missing) == 64 * header.num_components and not any(missing.values())


def _read_header(data: bytes) -> _Header:
    """Read a JPEG's markers up to its frame's header; APP1 holds EXIF or XMP."""
    at, exif, xmp = 2, b"", b""
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in _WITHOUT_LENGTH:
            at += 2
            continue
        if marker == 0xE1:
            body = data[at + 4 : at + 2 + length]
            exif = exif or (body if body.startswith(b"Exif\0\0") else b"")
            xmp = xmp or (body if body.startswith(_XMP) else b"")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return _Header(
                frame=marker,
                bits=data[at + 4],
                height=int.from_bytes(data[at + 5 : at + 7], "big"),
                width=int.from_bytes(data[at + 7 : at + 9], "big"),
                num_components=data[at + 9] if at + 9 < len(data) else 0,
                orientation=find_orientation(exif, xmp),
                end=at + 2 + length,
            )
        if marker == 0xDA:
            break
        at += 2 + length
    return _Header()  # the decoders will say what is wrong
