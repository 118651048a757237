"""The samples of a TIFF as they are stored: any depth, sign, number of bands, planes, strips and tiles.

Pillow knows some of the layouts and takes others for something else. libtiff, inside Pillow, does what is the same for
all of them, the decompression: it is shown each plane as a grey picture of 8 bits that is as wide as a row has bytes.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

from moco_ray.data.formats.bad_image import BadImage
from moco_ray.data.formats.pillow import open_image, policies
from moco_ray.data.formats.samples import Samples, UInt8Array
from moco_ray.data.formats.tiff_layout import TiffLayout

# None, LZW, deflate (two numbers), PackBits, LZMA, Zstandard.
LOSSLESS = (1, 5, 8, 32946, 32773, 34925, 50000)
_DEFLATE = (8, 32946)
# A tile beyond the edge of the picture has as much more; above it is no longer worth the time.
_MAX_REST = 2**24
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}


def read_samples(data: bytes, layout: TiffLayout, bands: int) -> Samples:
    """Read the first bands of a TIFF whose compression is one of LOSSLESS.

    Args:
        data: The file's bytes.
        layout: What its directory says.
        bands: How many bands are wanted.

    Returns:
        (H, W, bands) in the type of the file; bits that are no whole bytes as uint16, up to 16 of them.

    Raises:
        BadImage: If the bits are of a number that is not read, or bytes are missing.
    """
    is_whole = layout.bits in (8, 16, 32, 64)
    if layout.sample_format not in _KINDS or not (is_whole or (layout.bits < 16 and layout.sample_format in (1, 4))):
        raise BadImage(f"{layout}, which are not read")
    if layout.sample_format == 3 and layout.bits == 8:
        raise BadImage(f"{layout}, which are not read")
    if not layout.is_planar:
        return _plane(data, layout)[..., :bands]
    each = len(layout.offsets) // layout.bands
    planes = []
    for band in range(bands):
        part = slice(band * each, (band + 1) * each)
        one = replace(layout, bands=1, offsets=layout.offsets[part], counts=layout.counts[part])
        planes.append(_plane(data, one))
    return np.concatenate(planes, axis=2)


def read_subsampled(data: bytes, layout: TiffLayout) -> UInt8Array:
    """Read YCbCr of 8 bits whose colours are stored for blocks of pixels; they are repeated for each pixel."""
    across, down = layout.subsampling
    if layout.is_planar or layout.bits != 8 or not {across, down} <= {1, 2, 4} or layout.predictor != 1:
        raise BadImage(f"{layout} of subsampled YCbCr, which is not read")
    unit = across * down + 2
    width, height = -(-layout.width // across), -(-layout.height // down)
    wide = replace(
        layout,
        height=height,
        rows=-(-layout.rows // down),
        tile_width=layout.tile_width // across * unit,
    )
    blocks = _rows(data, wide, width * unit).reshape(height, width, unit)
    luma = blocks[..., :-2].reshape(height, width, down, across).swapaxes(1, 2).reshape(height * down, width * across)
    colours = blocks[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
    return np.dstack([luma, colours])[: layout.height, : layout.width]


def parts(data: bytes, layout: TiffLayout, num_parts: int) -> Iterator[memoryview]:
    """Yield the bytes of the strips or tiles as they are stored.

    Raises:
        BadImage: If the file says of fewer than `num_parts` where they are.
    """
    ends = sorted({*layout.offsets, len(data)})
    for i, offset in enumerate(_offsets(layout, num_parts)):
        count = layout.counts[i] if i < len(layout.counts) else 0
        # Some programs write no counts, or 0; what is compressed ends by itself.
        end = offset + count if count else ends[min(bisect_right(ends, offset), len(ends) - 1)]
        yield memoryview(data)[offset:end]


def _offsets(layout: TiffLayout, num_parts: int) -> tuple[int, ...]:
    if not num_parts or len(layout.offsets) < num_parts:
        raise BadImage("TIFF is damaged: it does not say where all of its pixels are")
    return layout.offsets[:num_parts]


def _plane(data: bytes, layout: TiffLayout) -> Samples:
    """Read interleaved bands as (H, W, bands)."""
    padded = -(-layout.width // layout.tile_width) * layout.tile_width if layout.tile_width else layout.width
    num_bits = layout.bands * layout.bits
    # What a tile has beyond the edge is read too: the predictors run over it.
    across = layout.tile_width * num_bits // 8
    rows = _rows(data, replace(layout, tile_width=across), -(-padded * num_bits // 8))
    if layout.bits not in (8, 16, 32, 64):
        if layout.predictor != 1:
            raise BadImage(f"{layout} and a predictor, which are not read")
        return _unpacked(rows, layout, padded)[:, : layout.width]
    if layout.predictor == 3:
        return _undo_float_predictor(rows, layout, padded)[:, : layout.width]
    words = rows.view(f"{layout.order}u{layout.bits // 8}").reshape(layout.height, padded, layout.bands)
    if layout.predictor == 2:
        step = layout.tile_width or padded
        native = words.astype(words.dtype.newbyteorder("="))
        for left in range(0, padded, step):
            part = native[:, left : left + step]
            np.cumsum(part, axis=1, dtype=native.dtype, out=part)
        words = native
    elif layout.predictor != 1:
        raise BadImage(f"{layout} and predictor {layout.predictor}, which is not read")
    native = words.astype(words.dtype.newbyteorder("="), copy=False)
    return native.view(f"{_KINDS[layout.sample_format]}{layout.bits // 8}")[:, : layout.width]


def _unpacked(rows: UInt8Array, layout: TiffLayout, width: int) -> NDArray[np.uint16]:
    """Unpack samples of fewer than 16 bits, the first in the highest bits, as the rows begin with whole bytes."""
    bits = np.unpackbits(rows, axis=1, count=width * layout.bands * layout.bits)
    bits = bits.reshape(layout.height, width, layout.bands, layout.bits)
    samples = np.zeros(bits.shape[:3], np.uint16)
    for i in range(layout.bits):
        samples = (samples << 1) | bits[..., i]
    return samples


def _undo_float_predictor(rows: UInt8Array, layout: TiffLayout, width: int) -> Samples:
    """Undo predictor 3: bytes of equal weight together, the highest first, and only their differences stored."""
    size = layout.bits // 8
    step = layout.tile_width or width
    if layout.sample_format != 3:
        raise BadImage(f"{layout} and predictor 3, which is for floating point")
    values = np.empty((layout.height, width, layout.bands), f"f{size}")
    for left in range(0, width, step):
        num_bytes = step * layout.bands * size
        part = rows[:, left * layout.bands * size :][:, :num_bytes].reshape(layout.height, -1, layout.bands)
        whole = np.cumsum(part, axis=1, dtype=np.uint8).reshape(layout.height, size, step * layout.bands)
        words = np.ascontiguousarray(whole.swapaxes(1, 2)).view(f">f{size}")
        values[:, left : left + step] = words.reshape(layout.height, step, layout.bands)
    return values


def _rows(data: bytes, layout: TiffLayout, row_bytes: int) -> UInt8Array:
    """Decompress a plane to (H, row_bytes); the widths of tiles are in bytes here."""
    needed = -(-layout.height // layout.rows) if layout.rows else 0
    if layout.tile_width:
        needed *= -(-row_bytes // layout.tile_width)
    if layout.compression in (1, *_DEFLATE):
        return _placed(data, layout, row_bytes, needed)
    offsets = _offsets(layout, needed)
    counts = layout.counts[:needed] or (len(data),) * needed
    shown = _shown_as_grey(data, layout, row_bytes, offsets, counts)
    with policies(), open_image(TiffImageFile, shown) as image:
        image.load()
        return np.array(image)


def _placed(data: bytes, layout: TiffLayout, row_bytes: int, needed: int) -> UInt8Array:
    """Put strips or tiles together without libtiff, which looks at no checksum of deflate."""
    if layout.fill_order == 2:
        bits = np.unpackbits(np.frombuffer(data, np.uint8)).reshape(-1, 8)
        data = np.packbits(bits[:, ::-1]).tobytes()
    rows = np.empty((layout.height, row_bytes), np.uint8)
    wide = layout.tile_width or row_bytes
    across = -(-row_bytes // wide)
    for i, part in enumerate(parts(data, layout, needed)):
        top, left = i // across * layout.rows, i % across * wide
        here = rows[top : top + layout.rows, left : left + wide]
        size = len(here) * wide
        offset = layout.offsets[i]
        content = data[offset : offset + size] if layout.compression == 1 else _inflated(part, size)
        if len(content) < size:
            raise BadImage("TIFF is truncated: bytes of its pixels are missing")
        here[:] = np.frombuffer(content, np.uint8).reshape(len(here), wide)
    return rows


def _inflated(part: memoryview, size: int) -> bytes:
    """Inflate the first `size` bytes; what follows, such as the rest of a tile, is run through for its checksum."""
    inflate = zlib.decompressobj()
    try:
        content = inflate.decompress(part, size)
        rest = inflate.decompress(inflate.unconsumed_tail, _MAX_REST)
    except zlib.error as error:
        raise BadImage(f"TIFF whose pixels do not inflate ({error})") from error
    if not inflate.eof and len(rest) < _MAX_REST:
        raise BadImage("TIFF is truncated: its pixels end before their checksum")
    return content


def _shown_as_grey(
    data: bytes, layout: TiffLayout, row_bytes: int, offsets: tuple[int, ...], counts: tuple[int, ...]
) -> bytes:
    """Append a directory that calls the same strips or tiles a grey picture of `row_bytes` x H, and point to it."""
    tags: dict[int, tuple[int, ...]] = {
        256: (row_bytes,), 257: (layout.height,), 258: (8,), 259: (layout.compression,), 262: (1,),
        266: (layout.fill_order,), 277: (1,),
    }  # fmt: skip
    if layout.tile_width:
        tags |= {322: (layout.tile_width,), 323: (layout.rows,), 324: offsets, 325: counts}
    else:
        tags |= {273: offsets, 278: (layout.rows,), 279: counts}
    at = len(data) + len(data) % 2
    arrays_at = at + 2 + 12 * len(tags) + 4
    entries, arrays = b"", b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{layout.order}{len(values)}I", *values)
        place = packed
        if len(values) > 1:
            place, arrays = struct.pack(layout.order + "I", arrays_at + len(arrays)), arrays + packed
        entries += struct.pack(layout.order + "HHI", tag, 4, len(values)) + place
    magic = b"II*\0" if layout.order == "<" else b"MM\0*"
    start = magic + struct.pack(layout.order + "I", at)
    directory = struct.pack(layout.order + "H", len(tags)) + entries + b"\0\0\0\0"
    return b"".join([start, data[8:], b"\0" * (len(data) % 2), directory, arrays])
