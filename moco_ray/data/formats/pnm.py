"""PBM, PGM, PPM and PFM, plain and binary, with numpy."""

from __future__ import annotations

import re

import numpy as np

from moco_ray.data.formats.bad_image import BadImage
from moco_ray.data.formats.samples import Samples, UInt8Array, check_size, grey_to_rgb, to_8_bits

_FIELD = re.compile(rb"(?:\s|#[^\n\r]*[\n\r])*([-+.\w]+)")
_CHANNELS = {b"P1": 1, b"P2": 1, b"P3": 3, b"P4": 1, b"P5": 1, b"P6": 3, b"Pf": 1, b"PF": 3}
MAGICS = tuple(_CHANNELS)


def decode_pnm(data: bytes, max_pixels: int) -> UInt8Array:
    """Decode a portable bitmap, greymap, pixmap or floatmap.

    A maximum below 65535 is the file's own word and becomes 255; with 65535 the values' depth counts, as in any file
    of 16 bits.

    Raises:
        BadImage: If the header or pixels are not whole, or the image is too large.
    """
    magic = data[:2]
    fields, at = [], 2
    for _ in range(2 if magic in (b"P1", b"P4") else 3):
        found = _FIELD.match(data, at)
        if not found:
            raise BadImage("PNM without a whole header")
        fields.append(found[1])
        at = found.end()
    try:
        width, height = int(fields[0]), int(fields[1])
        top = float(fields[2]) if len(fields) == 3 else 1.0
    except ValueError as error:
        raise BadImage("PNM whose header holds no numbers") from error
    check_size(width, height, max_pixels)
    if not np.isfinite(top) or top == 0 or (magic[1:].isdigit() and not 1 <= top <= 65535):
        raise BadImage(f"PNM whose largest value is {top:g}")
    count = width * height * _CHANNELS[magic]
    body = data[at + 1 :]
    values: Samples = (
        _plain(body, magic, count) if magic in (b"P1", b"P2", b"P3") else _binary(body, magic, width, height, top)
    )
    values = values.reshape(height, width, -1)
    if magic in (b"Pf", b"PF"):
        levels = to_8_bits(values[::-1])
    elif magic in (b"P1", b"P4"):
        levels = to_8_bits(values == 0)
    elif top in (255, 65535):
        levels = to_8_bits(values.astype(np.uint8 if top == 255 else np.uint16))
    else:
        levels = np.round(np.arange(65536) * (255 / top)).clip(0, 255).astype(np.uint8)[values]
    return grey_to_rgb(levels[..., 0]) if levels.shape[2] == 1 else np.ascontiguousarray(levels)


def _binary(body: bytes, magic: bytes, width: int, height: int, top: float) -> Samples:
    count = width * height * _CHANNELS[magic]
    if magic == b"P4":
        rows = _bytes(body, np.dtype(np.uint8), -(-width // 8) * height).astype(np.uint8).reshape(height, -1)
        return np.unpackbits(rows, axis=1, count=width)
    if magic in (b"Pf", b"PF"):
        return _bytes(body, np.dtype("<f4" if top < 0 else ">f4"), count)
    return _bytes(body, np.dtype(np.uint8 if top < 256 else ">u2"), count)


def _bytes(body: bytes, kind: np.dtype[np.generic], count: int) -> Samples:
    if len(body) < count * kind.itemsize:
        raise BadImage("PNM is truncated: rows of pixels are missing")
    return np.frombuffer(body, kind, count).astype(kind.newbyteorder("="))


def _plain(body: bytes, magic: bytes, count: int) -> Samples:
    text = re.sub(rb"#[^\n\r]*", b" ", body)
    if magic == b"P1":  # digits need no space between them
        values: Samples = np.frombuffer(re.sub(rb"\s+", b"", text), np.uint8)[:count] - ord("0")
    else:
        values = _numbers(text, count)
    if len(values) < count:
        raise BadImage("PNM is truncated: numbers are missing")
    if int(values.max()) > (1 if magic == b"P1" else 65535):
        raise BadImage("PNM with something else than its numbers")
    return values


def _numbers(text: bytes, count: int) -> Samples:
    if re.search(rb"[^0-9\s]", text):
        raise BadImage("PNM with something else than its numbers")
    return np.fromstring(text.decode("ascii"), dtype=np.uint32, sep=" ")[:count]
