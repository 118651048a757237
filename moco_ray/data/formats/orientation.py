"""Which way up a picture was taken, from EXIF or XMP; a broken tag is no broken image, and means upright."""

from __future__ import annotations

import re
import struct

from moco_ray.data.formats.tiff_layout import read_tags

_TAG = 0x0112
_IN_XMP = re.compile(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])")


def find_orientation(exif: bytes | None, xmp: bytes | None) -> int:
    """Return the EXIF orientation of 1 to 8, from XMP where EXIF has none."""
    found = _IN_XMP.search(xmp or b"")
    return _of_exif(exif or b"") or (int(found[1]) if found else 1)


def _of_exif(exif: bytes) -> int:
    tags = exif.removeprefix(b"Exif\0\0")
    if tags[:4] not in (b"II*\0", b"MM\0*"):
        return 0
    try:
        value = read_tags(tags, "<" if tags[:1] == b"I" else ">", is_big=False).get(_TAG, (0,))[0]
    except (struct.error, IndexError):
        return 0
    return value if 1 <= value <= 8 else 0
