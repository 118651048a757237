"""TIFF: the first page, read by what its directory says of the samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from moco_ray.data.formats.bad_image import BadImage
from moco_ray.data.formats.jpeg import check_jpeg
from moco_ray.data.formats.pillow import decode_with, image_to_rgb, lab_to_rgb
from moco_ray.data.formats.samples import (
    Samples,
    UInt8Array,
    check_size,
    grey_to_rgb,
    over_background,
    to_8_bits,
    turn,
)
from moco_ray.data.formats.tiff_layout import (
    BLACK_IS_ZERO,
    CIELAB,
    CMYK,
    COLOUR_BANDS,
    ICCLAB,
    PALETTE,
    PHOTOMETRICS,
    RGB,
    WHITE_IS_ZERO,
    YCBCR,
    TiffLayout,
    read_layout,
)
from moco_ray.data.formats.tiff_samples import LOSSLESS, parts, read_samples, read_subsampled

_GREYS = (WHITE_IS_ZERO, BLACK_IS_ZERO)
_OLD_JPEG, _JPEG = 6, 7
_PREMULTIPLIED, _STRAIGHT, _CORELS = 1, 2, 999
# Of one pixel, all bands together: what a picture may take while it is read.
_MAX_PIXEL_BYTES = 64
# Filters overshoot 1 a little; above it is another scale.
_MOST_OPAQUE = 1.5


def decode_tiff(data: bytes, max_pixels: int) -> UInt8Array:
    """Decode the first page of a TIFF or BigTIFF.

    Raises:
        BadImage: If it is too large, damaged, or has bands of which it does not say that they are colours.
    """
    layout = read_layout(data)
    check_size(layout.width, layout.height, max_pixels)
    colours, alpha = _meaning(layout)
    if layout.compression not in LOSSLESS:
        # JPEG, fax and the like: 1 or 8 bits in one way each, which libtiff and Pillow know.
        if (
            layout.bits > 8
            or layout.sample_format not in (1, 4)
            or layout.photometric not in (*_GREYS, RGB, YCBCR, CMYK)
        ):
            raise BadImage(f"{layout} and compression {layout.compression}, which is not read")
        if layout.compression in (_OLD_JPEG, _JPEG):
            _check_jpegs(data, layout, max_pixels)
        return decode_with(TiffImageFile, data, max_pixels, to_rgb=image_to_rgb)
    if layout.photometric == YCBCR and layout.subsampling != (1, 1):
        samples: Samples = read_subsampled(data, layout)
    else:
        samples = read_samples(data, layout, alpha + 1 if alpha else colours)
    pixels = _to_rgb(samples[..., :colours], layout)
    if alpha:
        opacity = _opacity(samples[..., alpha], layout)
        is_premultiplied = layout.extra[alpha - colours] == _PREMULTIPLIED
        pixels = over_background(pixels, opacity, is_premultiplied=is_premultiplied)
    return turn(pixels, layout.orientation)


def _meaning(layout: TiffLayout) -> tuple[int, int]:
    """Return the number of colour bands and the band of alpha, 0 without.

    Raises:
        BadImage: If there are bands that may be anything.
    """
    colours = COLOUR_BANDS.get(layout.photometric)
    if colours is None:
        name = PHOTOMETRICS.get(layout.photometric, str(layout.photometric))
        raise BadImage(f"{layout} of photometric interpretation {name}, which is not read")
    name = PHOTOMETRICS[layout.photometric]
    if layout.bands < colours:
        raise BadImage(f"{layout}, too few for {name}")
    num_extra = layout.bands - colours
    alphas = [i for i, kind in enumerate(layout.extra[:num_extra]) if kind in (_PREMULTIPLIED, _STRAIGHT, _CORELS)]
    has_named = layout.photometric == RGB or (layout.extra and layout.photometric not in _GREYS)
    is_known = num_extra == 0 or has_named or (num_extra == 1 and alphas)
    if not is_known:
        raise BadImage(f"{layout}; it calls {colours} of them {name} and does not name the others. Save three as RGB")
    if layout.bands * layout.bits > 8 * _MAX_PIXEL_BYTES and not layout.is_planar:
        raise BadImage(f"{layout}, more than {_MAX_PIXEL_BYTES} bytes a pixel")
    return colours, colours + alphas[0] if alphas else 0


def _check_jpegs(data: bytes, layout: TiffLayout, max_pixels: int) -> None:
    """Check each JPEG within a TIFF: libtiff only warns of their damage, and Pillow would pass over it."""
    for jpeg, width, height in _jpegs(data, layout):
        wide = layout.tile_width or layout.width
        try:
            check_jpeg(jpeg, width, height, max(max_pixels, wide * layout.rows))
        except BadImage as error:
            raise BadImage(f"TIFF: {error}") from error


def _jpegs(data: bytes, layout: TiffLayout) -> Iterator[tuple[bytes, int, int]]:
    """Yield JPEGs with the width and height that the picture takes of them.

    Of compression 6 only one that holds all strips: a header and codes in pieces are put together by libtiff alone.
    """
    if layout.compression == _OLD_JPEG:
        start, end = layout.jpeg_place
        if layout.offsets and all(start <= offset < end for offset in layout.offsets):
            yield data[start:end], layout.width, layout.height
        return
    tables = layout.jpeg_tables.rpartition(b"\xff\xd9")[0] or layout.jpeg_tables  # up to their end marker
    wide = layout.tile_width or layout.width
    across, down = -(-layout.width // wide), -(-layout.height // layout.rows) if layout.rows else 0
    for i, part in enumerate(parts(data, layout, across * down * (layout.bands if layout.is_planar else 1))):
        top, left = i // across % down * layout.rows, i % across * wide
        whole = tables + part[2:] if tables else bytes(part)
        yield whole, min(wide, layout.width - left), min(layout.rows, layout.height - top)


def _to_rgb(samples: Samples, layout: TiffLayout) -> UInt8Array:
    if layout.photometric in _GREYS:
        grey = _own_depth(samples[..., 0], layout)
        return grey_to_rgb(~grey if layout.photometric == WHITE_IS_ZERO else grey)
    if layout.photometric == RGB:
        return _own_depth(samples, layout)
    if layout.sample_format not in (1, 4):
        raise BadImage(f"{layout} of {PHOTOMETRICS[layout.photometric]}, which are not read")
    if layout.photometric == PALETTE:
        return _look_up(samples[..., 0], layout)
    if layout.photometric in (CIELAB, ICCLAB):
        return _lab(samples, layout)
    # Inks and YCbCr fill the range of their bits, whatever the largest value is.
    levels = np.ascontiguousarray(to_8_bits(samples, depth=layout.bits))
    size = (levels.shape[1], levels.shape[0])
    mode = "CMYK" if layout.photometric == CMYK else "YCbCr"
    return np.array(Image.frombytes(mode, size, levels.tobytes()).convert("RGB"))


def _own_depth(samples: Samples, layout: TiffLayout) -> UInt8Array:
    """Scale to 8 bits: fewer bits fill the range, more have the depth of their values."""
    if layout.sample_format == 2 or layout.bits >= 8:
        return to_8_bits(samples, missing=layout.missing if layout.bits > 8 else None)
    return to_8_bits(samples, depth=layout.bits)


def _opacity(alpha: Samples, layout: TiffLayout) -> UInt8Array:
    """Scale alpha to 8 bits; floating point is 0 to 1, and NaN clear."""
    if layout.sample_format != 3:
        return to_8_bits(alpha, depth=layout.bits if layout.bits < 8 else None)
    known = np.nan_to_num(alpha.astype(np.float64))
    if known.max() > _MOST_OPAQUE:
        raise BadImage(f"{layout} and an alpha of up to {known.max():g}; in floating point it is 0 to 1")
    return np.round(known.clip(0, 1) * 255).astype(np.uint8)


def _look_up(indices: Samples, layout: TiffLayout) -> UInt8Array:
    colours = np.array(layout.colour_map, np.uint16)
    if layout.bits > 16 or len(colours) != 3 * 2**layout.bits:
        raise BadImage(f"{layout} and a palette of {len(colours) // 3} colours")
    # 16 bits, but some programs write 8, as libtiff knows too.
    levels = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8).reshape(3, -1).T
    return np.ascontiguousarray(levels[indices.astype(np.intp)])


def _lab(samples: Samples, layout: TiffLayout) -> UInt8Array:
    if layout.bits not in (8, 16):
        raise BadImage(f"{layout} of Lab, which are not read")
    eight = (samples.astype(np.uint16) >> (layout.bits - 8)).astype(np.uint8)
    if layout.photometric == ICCLAB:  # a and b are moved up by half the range, and in CIELab they are signed
        eight ^= np.array([0, 128, 128], np.uint8)
    return lab_to_rgb(Image.frombytes("LAB", (eight.shape[1], eight.shape[0]), eight.tobytes()))
