"""What a TIFF's first directory says: sizes, bits, bands and where the bytes are."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from moco_ray.data.formats.bad_image import BadImage

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB, ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
PHOTOMETRICS = {
    WHITE_IS_ZERO: "grey (white is zero)",
    BLACK_IS_ZERO: "grey",
    RGB: "RGB",
    PALETTE: "palette",
    4: "mask",
    CMYK: "inks",
    YCBCR: "YCbCr",
    CIELAB: "Lab",
    ICCLAB: "ICC Lab",
    10: "ITU Lab",
    32803: "colour filter array (raw)",
    34892: "linear raw",
}
COLOUR_BANDS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, CIELAB: 3, ICCLAB: 3}

_TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
# A thumbnail, a camera's raw data: the first directory of such files is no picture of its own.
_DNG_VERSION, _SUBFILE_TYPE = 50706, 254
_UNDEFINED, _JPEG_TABLES = 7, 347


@dataclass(frozen=True, kw_only=True)
class TiffLayout:
    """The first picture of a TIFF file; offsets and sizes in bytes."""

    order: str
    """"<" or ">"."""
    width: int
    height: int
    bits: int
    bands: int
    sample_format: int
    """1 unsigned, 2 signed, 3 floating point, 4 undefined, 5 and 6 complex."""
    photometric: int
    compression: int
    predictor: int
    is_planar: bool
    fill_order: int
    extra: tuple[int, ...]
    """Meaning of each band after the colours: 0 unknown, 1 premultiplied alpha, 2 alpha."""
    tile_width: int
    """0: strips."""
    rows: int
    """Rows of a strip or tile."""
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    colour_map: tuple[int, ...]
    jpeg_tables: bytes
    """The tables of all strips or tiles, as a JPEG without pixels; b"": each has its own."""
    jpeg_place: tuple[int, int]
    """Where the one JPEG of a file of compression 6 is, from and to; (0, 0) without."""
    orientation: int
    subsampling: tuple[int, int]
    missing: float | None
    """GDAL's value of "no data"."""

    def __str__(self) -> str:
        """Say what the file is, for messages."""
        kind = {2: "signed ", 3: "floating point ", 5: "complex ", 6: "complex "}.get(self.sample_format, "")
        bands = "1 band" if self.bands == 1 else f"{self.bands} bands"
        return f"TIFF with {bands} of {kind}{self.bits} bits"


def read_layout(data: bytes) -> TiffLayout:
    """Read the first directory of a TIFF or BigTIFF.

    Raises:
        BadImage: If it is damaged, or says itself that it is no picture.
    """
    order = "<" if data[:1] == b"I" else ">"
    try:
        tags = read_tags(data, order, is_big=b"+" in data[2:4])
        layout = _layout(tags, order)
    except (struct.error, IndexError, KeyError) as error:
        raise BadImage("TIFF is damaged or truncated: its directory cannot be read") from error
    if _DNG_VERSION in tags or data[8:10] == b"CR":
        raise BadImage("raw photo of a camera (DNG or CR2); develop it to PNG, TIFF or JPEG")
    if tags.get(_SUBFILE_TYPE, (0,))[0] & 1:
        raise BadImage("TIFF whose first page is a thumbnail, as in cameras' raw files")
    return layout


def read_tags(data: bytes, order: str, *, is_big: bool) -> dict[int, tuple[int, ...]]:
    """Read the first directory: the tags of whole numbers and of text, the text as bytes.

    Raises:
        struct.error: If the directory is not whole.
    """
    word, entry, inline = ("Q", 20, 8) if is_big else ("I", 12, 4)
    (at,) = struct.unpack_from(order + word, data, 8 if is_big else 4)
    (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, at)
    at += 8 if is_big else 2
    tags: dict[int, tuple[int, ...]] = {}
    for i in range(min(count, 4096)):
        tag, kind, length = struct.unpack_from(order + "HH" + word, data, at + i * entry)
        if kind not in _TYPES or (kind == _UNDEFINED and tag != _JPEG_TABLES):
            continue  # rational and floating point, or bytes of any meaning: none of ours
        place = at + i * entry + entry - inline
        num_bytes = length * struct.calcsize(order + _TYPES[kind])
        if num_bytes > inline:
            (place,) = struct.unpack_from(order + word, data, place)
        if num_bytes > len(data):
            continue
        if kind == 2:
            tags[tag] = tuple(data[place : place + length])
        else:
            tags[tag] = struct.unpack_from(f"{order}{length}{_TYPES[kind]}", data, place)
    return tags


def _layout(tags: dict[int, tuple[int, ...]], order: str) -> TiffLayout:
    def one(tag: int, default: int) -> int:
        return (tags.get(tag) or (default,))[0]

    bands = one(277, 1)
    bits, formats = tags.get(258, (1,)), tags.get(339, (1,))
    for name, values in (("bits", bits), ("kinds of samples", formats)):
        if len(set(values[:bands])) > 1:
            raise BadImage(f"TIFF whose bands differ in their {name} ({', '.join(map(str, values[:8]))})")
    if 262 not in tags:
        raise BadImage("TIFF that does not say what its samples mean (no photometric interpretation)")
    if 258 not in tags and (bands > 1 or tags[262][0] not in (WHITE_IS_ZERO, BLACK_IS_ZERO, PALETTE)):
        raise BadImage("TIFF that does not say how many bits its colours have (BitsPerSample)")
    is_tiled = 322 in tags
    offsets = tags.get(324) or tags.get(273) if is_tiled else tags[273]
    if one(332, 1) != 1 and tags[262][0] == CMYK:
        raise BadImage("TIFF of inks that are not cyan, magenta, yellow and black")
    return TiffLayout(
        order=order,
        width=tags[256][0],
        height=tags[257][0],
        bits=bits[0],
        bands=bands,
        sample_format=formats[0],
        photometric=tags[262][0],
        compression=one(259, 1),
        predictor=one(317, 1),
        is_planar=one(284, 1) == 2 and bands > 1,
        fill_order=one(266, 1),
        extra=tags.get(338, ()),
        tile_width=one(322, 0),
        rows=one(323, 0) if is_tiled else min(one(278, 2**32 - 1), tags[257][0]),
        offsets=offsets or (),
        counts=tags.get(325) or tags.get(279) or (),
        colour_map=tags.get(320, ()),
        jpeg_tables=bytes(tags.get(_JPEG_TABLES, ())),
        jpeg_place=(one(513, 0), one(513, 0) + one(514, 0)),
        orientation=one(274, 1) if 1 <= one(274, 1) <= 8 else 1,
        subsampling=(one(530, 2), (tags.get(530, ()) + (2, 2))[1]) if tags[262][0] == YCBCR else (1, 1),
        missing=_number(bytes(tags.get(42113, ()))),
    )


def _number(text: bytes) -> float | None:
    try:
        return float(text.strip(b"\0 ").decode("ascii")) if text else None
    except ValueError:
        return None
