"""TIFF: samples mean what the directory says, or the picture is bad."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage.color import rgb2lab

from tests.data.formats.scene import (
    ALPHA,
    GREY,
    GREY_ON_WHITE,
    ON_WHITE,
    PREMULTIPLIED,
    RAMP,
    RGB,
    X,
    decode,
    distance,
    encoded,
    packed,
    raw_tiff,
    reason,
    tiff,
)

RGB16 = RGB.astype(np.uint16) * 257
PLANES = {"photometric": "rgb", "planarconfig": "separate"}
STORED: list[dict[str, Any]] = [
    {},
    {"byteorder": ">"},
    {"bigtiff": True, "rowsperstrip": 7},
    {"compression": "zlib", "predictor": True, "rowsperstrip": 9},
    {"compression": "zlib", "predictor": True, "tile": (16, 32), "byteorder": ">"},
    {"compression": "lzma", "tile": (48, 16)},
    {"tile": (32, 32)},
]
DEPTHS: dict[str, tuple[np.ndarray, np.ndarray, dict[str, Any]]] = {
    "grey 8": (RAMP, GREY, {}),
    "colour 8": (RGB, RGB, {"photometric": "rgb"}),
    "colour 16": (RGB16, RGB, {"photometric": "rgb"}),
    "colour 12 in 16": (RGB.astype(np.uint16) * 16, RGB, {"photometric": "rgb"}),
    "planes 8": (np.moveaxis(RGB, 2, 0), RGB, PLANES),
    "planes 16": (np.moveaxis(RGB16, 2, 0), RGB, PLANES),
    "planes 12 in 16": (np.moveaxis(RGB16, 2, 0) >> 4, RGB, PLANES),
    "white is zero 8": (255 - RAMP, GREY, {"photometric": "miniswhite"}),
    "white is zero 16": (65535 - RAMP.astype(np.uint16) * 257, GREY, {"photometric": "miniswhite"}),
    "white is zero 12 in 16": (4095 - RAMP.astype(np.uint16) * 16, GREY, {"photometric": "miniswhite"}),
    "signed 8": ((RAMP.astype(int) - 128).astype(np.int8), GREY, {}),
    "signed 16": (RAMP.astype(np.int16) * 12 - 1000, GREY, {}),
    "signed 16 without negatives": (RAMP.astype(np.int16) * 16, GREY, {}),
    "signed 32": (RAMP.astype(np.int32) * 8_000_000 - 10**9, GREY, {}),
    "signed colour 16": (RGB.astype(np.int16) * 100 - 9000, RGB, {"photometric": "rgb"}),
    "unsigned 32": (RAMP.astype(np.uint32) * 16843009, GREY, {}),
}
WIDE: dict[str, tuple[np.ndarray, np.ndarray, dict[str, Any]]] = {
    "half": (RAMP.astype(np.float16) - 7, GREY, {}),
    "single": (RAMP.astype(np.float32) / 3 - 7, GREY, {}),
    "double": (RAMP.astype(np.float64) * 1e300, GREY, {}),
    "unsigned 64": (RAMP.astype(np.uint64) << np.uint64(56), GREY, {}),
    "colour": (RGB.astype(np.float32) / 255, RGB, {"photometric": "rgb"}),
    "white is zero": (-RAMP.astype(np.float32), GREY, {"photometric": "miniswhite"}),
}


@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("name", DEPTHS)
def test_every_depth_sign_polarity_and_plane_shows_the_scene(name: str, stored: dict[str, Any]) -> None:
    samples, wanted, options = DEPTHS[name]
    assert distance(tiff(samples, **options, **stored), wanted) <= 1.0


@pytest.mark.parametrize("stored", [one for one in STORED if not one.get("predictor")], ids=str)
@pytest.mark.parametrize("name", WIDE)
def test_floating_point_and_64_bits_fill_the_range(name: str, stored: dict[str, Any]) -> None:
    samples, wanted, options = WIDE[name]
    assert distance(tiff(samples, **options, **stored), wanted) <= 1.0


@pytest.mark.parametrize(
    ("mode", "predictor"),
    [("RGB", 1), ("RGB", 2), ("L", 1), ("L", 2), ("I;16", 1), ("I;16", 2), ("F", 1), ("F", 3), ("1", 1)],
)
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"])
def test_every_compression_and_predictor_is_undone(mode: str, compression: str, predictor: int) -> None:
    """Written by libtiff, which stores 16 bits and floating point in the machine's order."""
    values = {"RGB": RGB, "I;16": RAMP.astype(np.uint16) * 257, "F": RAMP.astype(np.float32) / 3}.get(mode, RAMP)
    image = Image.fromarray(values).convert("1") if mode == "1" else Image.fromarray(values)
    wanted = np.asarray(image.convert("RGB")) if mode == "1" else RGB if mode == "RGB" else GREY
    has_predictor = predictor > 1 and compression != "packbits"
    data = encoded(image, "TIFF", compression=compression, tiffinfo={317: predictor} if has_predictor else {})
    assert distance(data, wanted) <= 0.5


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 10, 12, 14])
@pytest.mark.parametrize("photometric", [0, 1])
def test_samples_of_no_whole_bytes_fill_the_range(bits: int, photometric: int, order: str) -> None:
    levels = RAMP.astype(np.uint32) * (2**bits - 1) // 255
    stored = 2**bits - 1 - levels if photometric == 0 else levels
    tags = {256: (52,), 257: (40,), 258: (bits,), 262: (photometric,)}
    wanted = np.repeat((levels * 255.0 / (2**bits - 1))[..., None], 3, axis=2)
    assert distance(raw_tiff(packed(stored, bits), tags, order), wanted) < 1.0


@pytest.mark.parametrize("photometric", [2, 3, 5, 6])
def test_colours_without_a_number_of_bits_are_bad(photometric: int) -> None:
    rows = RGB.reshape(40, -1)
    tags = {256: (52,), 257: (40,), 262: (photometric,), 277: (3,)}
    assert "how many bits" in reason(raw_tiff(rows, tags))
    black_and_white = packed(RAMP // 128, 1)  # the standard's 1 bit
    wanted = np.repeat((RAMP // 128 * 255)[..., None], 3, axis=2)
    assert distance(raw_tiff(black_and_white, {256: (52,), 257: (40,), 262: (1,)}), wanted) == 0


def test_reversed_bits_are_turned() -> None:
    reversed_bits = np.packbits(np.unpackbits(RAMP.reshape(-1)).reshape(-1, 8)[:, ::-1]).reshape(RAMP.shape)
    tags = {256: (52,), 257: (40,), 258: (8,), 262: (1,), 266: (2,)}
    assert (decode(raw_tiff(reversed_bits, tags)) == GREY).all()


@pytest.mark.parametrize("scale", [1, 257, 16])
@pytest.mark.parametrize("stored", [{}, {"compression": "zlib"}], ids=str)
def test_alpha_is_put_on_white_straight_and_premultiplied(scale: int, stored: dict[str, Any]) -> None:
    """At 8 bits, 16 bits, and 12 bits of colour beside 16 bits of alpha."""
    kind = np.uint8 if scale == 1 else np.uint16
    alpha = ALPHA.astype(kind) * (1 if scale == 1 else 257)

    def file(colours: np.ndarray, extra: str, photometric: str) -> bytes:
        bands = np.dstack([colours.astype(kind) * kind(scale), alpha])
        return tiff(bands, photometric=photometric, planarconfig="contig", extrasamples=[extra], **stored)

    assert distance(file(RGB, "unassalpha", "rgb"), ON_WHITE) < 1.5
    assert distance(file(PREMULTIPLIED, "assocalpha", "rgb"), ON_WHITE) < 1.5
    assert distance(file(RAMP, "unassalpha", "minisblack"), GREY_ON_WHITE) < 1.5


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    "alpha",
    [
        ALPHA / 255,
        0.5 + X / 103,
        np.full(RAMP.shape, 0.5),
        np.ones(RAMP.shape),
        ALPHA / 200,
        X / 51 - 0.2,
        np.where(X < 9, np.nan, 0.5),
    ],
    ids=["ramp", "upper half", "half", "opaque", "above 1", "below 0", "NaN"],
)
def test_floating_point_alpha_is_0_to_1(alpha: np.ndarray, kind: type[np.floating]) -> None:
    opacity = np.nan_to_num(alpha).clip(0, 1)[..., None]
    for colours, photometric in ((RGB, "rgb"), (RAMP[..., None], "minisblack")):
        bands = np.dstack([colours / 255, alpha]).astype(kind)
        data = tiff(bands, photometric=photometric, planarconfig="contig", extrasamples=["unassalpha"])
        assert distance(data, np.broadcast_to(colours * opacity + 255 * (1 - opacity), RGB.shape)) < 1.5


def test_floating_point_alpha_of_another_scale_is_bad() -> None:
    bands = np.dstack([RGB, ALPHA]).astype(np.float32)
    data = tiff(bands, photometric="rgb", planarconfig="contig", extrasamples=["unassalpha"])
    assert "alpha of up to 255; in floating point it is 0 to 1" in reason(data)


def test_alpha_in_a_plane_of_its_own_and_behind_another_band() -> None:
    planes = np.moveaxis(np.dstack([RGB, RAMP, ALPHA]), 2, 0)
    extra = ["unspecified", "unassalpha"]
    assert distance(tiff(planes, **PLANES, extrasamples=extra), ON_WHITE) < 0.6
    interleaved = np.dstack([RGB, RAMP, ALPHA])
    assert distance(tiff(interleaved, photometric="rgb", planarconfig="contig", extrasamples=extra), ON_WHITE) < 0.6


@pytest.mark.parametrize("num_extra", [1, 2, 10])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_bands_beyond_rgb_are_left_out_where_the_file_names_them(num_extra: int, kind: type[np.generic]) -> None:
    bands = np.dstack([RGB, *[RAMP] * num_extra]).astype(kind)
    data = tiff(bands, photometric="rgb", planarconfig="contig", extrasamples=["unspecified"] * num_extra)
    assert (decode(data) == RGB).all()


def test_rgb_is_the_first_three_bands_where_the_others_have_no_name() -> None:
    for bands in (np.dstack([RGB, ALPHA]), np.dstack([RGB, RAMP, ALPHA]).astype(np.uint16)):
        data = tiff(
            bands, photometric="rgb", extrasamples=["unspecified"] * (bands.shape[2] - 3), planarconfig="contig"
        )
        unnamed = data.replace(struct.pack("<H", 338), struct.pack("<H", 65000))  # a private tag for ExtraSamples
        assert unnamed != data and (decode(unnamed) == RGB).all()
    assert (decode(cv2.imencode(".tiff", np.dstack([RGB[..., ::-1], ALPHA]))[1].tobytes()) == RGB).all()


@pytest.mark.parametrize(
    ("samples", "options", "words"),
    [
        (np.dstack([RGB, RGB[..., :2]]), {"photometric": "minisblack"}, "5 bands of 8 bits"),
        (np.dstack([RGB16] * 4 + [RGB16[..., :1]]), {"photometric": "minisblack"}, "13 bands of 16 bits"),
        (RGB, {"photometric": "minisblack"}, "3 bands of 8 bits"),
        (RGB[..., :2].astype(np.float32), {"photometric": "minisblack"}, "2 bands of floating point 32 bits"),
        (np.moveaxis(np.dstack([RGB, RAMP]), 2, 0), {"photometric": "minisblack"}, "4 bands of 8 bits"),
        (RAMP.astype(np.complex64), {}, "complex 64 bits"),
    ],
    ids=["five", "thirteen", "three", "two", "planes", "complex"],
)
def test_bands_that_may_be_anything_are_bad_and_counted(
    samples: np.ndarray, options: dict[str, Any], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    planes = "separate" if samples.ndim == 3 and samples.shape[0] < 10 else "contig"
    assert words in reason(tiff(samples, **options, **({"planarconfig": planes} if samples.ndim == 3 else {})))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("scale", [1, 257])
def test_palettes_of_8_and_16_bits_are_looked_up(scale: int) -> None:
    image = Image.fromarray(RGB).quantize(100)
    colours = np.zeros((3, 256), np.uint16)
    listed = np.array(image.getpalette(), np.uint16).reshape(-1, 3).T * scale
    colours[:, : listed.shape[1]] = listed
    wanted = np.asarray(image.convert("RGB"))
    assert (decode(tiff(np.asarray(image), photometric="palette", colormap=colours)) == wanted).all()
    wide = np.pad(colours, ((0, 0), (0, 2**16 - 256)))
    data = tiff(np.asarray(image).astype(np.uint16), photometric="palette", colormap=wide)
    assert (decode(data) == wanted).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_small_palettes_are_looked_up(bits: int) -> None:
    colours = np.random.default_rng(bits).integers(0, 256, (3, 2**bits))
    indices = RAMP.astype(np.uint16) * (2**bits - 1) // 255
    colour_map = tuple(int(value) * 257 for value in colours.reshape(-1))
    tags = {256: (52,), 257: (40,), 258: (bits,), 262: (3,), 320: colour_map}
    assert (decode(raw_tiff(packed(indices, bits), tags)) == colours.T[indices]).all()


@pytest.mark.parametrize("scale", [1, 257])
def test_inks_become_colours_at_8_and_16_bits(scale: int) -> None:
    inks = np.asarray(Image.fromarray(RGB).convert("CMYK")).astype(np.uint16 if scale > 1 else np.uint8)
    assert distance(tiff(inks * inks.dtype.type(scale), photometric="separated", planarconfig="contig"), RGB) < 1
    planes = np.moveaxis(inks * inks.dtype.type(scale), 2, 0)
    assert distance(tiff(planes, photometric="separated", planarconfig="separate"), RGB) < 1


def test_lab_becomes_srgb() -> None:
    soft = (RGB * 0.5 + 60).astype(np.uint8)  # within what sRGB can show
    lab = rgb2lab(soft / 255.0)
    levels = np.dstack([lab[..., 0] * 2.55, lab[..., 1], lab[..., 2]]).round().astype(int)
    eight = np.dstack([levels[..., 0].astype(np.uint8), levels[..., 1:].astype(np.int8).view(np.uint8)])
    assert distance(tiff(eight, photometric="cielab", planarconfig="contig"), soft) < 3
    sixteen = np.dstack(
        [(lab[..., 0] * 655.35).astype(np.uint16), (lab[..., 1:] * 256).astype(np.int16).view(np.uint16)]
    )
    assert distance(tiff(sixteen, photometric="cielab", planarconfig="contig"), soft) < 3
    icc = np.dstack([levels[..., 0], levels[..., 1:] + 128]).astype(np.uint8)
    assert distance(tiff(icc, photometric="icclab", planarconfig="contig"), soft) < 3
    cms = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    written = ImageCms.applyTransform(Image.fromarray(soft), cms)
    assert written is not None and distance(encoded(written, "TIFF"), soft) < 3


def test_ycbcr_is_read_whole_and_subsampled() -> None:
    soft = np.dstack([RGB[..., 2]] * 2 + [RGB[..., 0] // 4 + 90])
    ycbcr = np.asarray(Image.fromarray(soft).convert("YCbCr"))
    assert distance(tiff(ycbcr, photometric="ycbcr", subsampling=(1, 1)), soft) < 2
    # Blocks of 2 x 2: four of Y, then Cb and Cr.
    luma = ycbcr[..., 0].reshape(20, 2, 26, 2).swapaxes(1, 2).reshape(20, 26, 4)
    blocks = np.dstack([luma, ycbcr[::2, ::2, 1], ycbcr[::2, ::2, 2]]).reshape(20, -1)
    tags = {256: (52,), 257: (40,), 258: (8, 8, 8), 262: (6,), 277: (3,), 530: (2, 2)}
    assert distance(raw_tiff(blocks, {**tags, 278: (40,)}), soft) < 3


@pytest.mark.parametrize("mode", ["RGB", "L", "YCbCr", "CMYK"])
def test_jpeg_within_tiff_is_read(mode: str) -> None:
    image = Image.fromarray(RAMP if mode == "L" else RGB).convert(mode)
    assert distance(encoded(image, "TIFF", compression="jpeg"), GREY if mode == "L" else RGB) < 8


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax_is_read(compression: str) -> None:
    image = Image.fromarray(RAMP).convert("1")
    assert distance(encoded(image, "TIFF", compression=compression), np.asarray(image.convert("RGB"))) == 0


def test_values_that_stand_for_no_data_do_not_flatten_the_picture() -> None:
    nodata = [(42113, "s", 0, "-9999", True)]
    heights = np.where(X_LEFT, -9999.0, RAMP.astype(float)).astype(np.float32)
    wanted = np.where(X_LEFT[..., None], 0, np.clip((GREY.astype(float) - 25) * 255 / 230, 0, 255))
    assert distance(tiff(heights, extratags=nodata), wanted) < 1.5
    holes = np.where(X_LEFT, np.nan, RAMP.astype(float) + 1000).astype(np.float32)
    assert distance(tiff(holes), wanted) < 1.5
    depth = np.where(X_LEFT, 65535, RAMP.astype(np.uint16) * 16).astype(np.uint16)
    nodata = [(42113, "s", 0, "65535", True)]
    assert distance(tiff(depth, extratags=nodata), np.where(X_LEFT[..., None], 0, GREY)) < 1.5


LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        (-LARGEST, "-3.4028234663852886e+38"),
        (-LARGEST, "-3.40282346638529e+38"),
        (-LARGEST, "-3.4028235e+38"),
        (-LARGEST, "-3.40282e+38"),
        (LARGEST, "3.402823e+38"),
        (-3.4e38, "-3.39999999999999996e+38"),
        (-9999.99, "-9999.99"),
        (-0.1, "-0.1"),
        (1e20, "1e20"),
        (np.nan, "nan"),
        (np.inf, "1e999"),
    ],
)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_no_data_is_compared_as_the_samples_can_hold_it(stored: float, text: str, kind: type[np.floating]) -> None:
    heights = np.where(X_LEFT, stored, RAMP.astype(float)).astype(kind)
    shown = np.clip((GREY.astype(float) - 25) * 255 / 230, 0, 255)
    is_above = stored == np.inf  # infinity is the lightest
    wanted = np.where(X_LEFT[..., None], 255 if is_above else 0, shown)
    assert distance(tiff(heights, extratags=[(42113, "s", 0, text, True)]), wanted) < 1.5


def test_only_the_value_of_no_data_is_none() -> None:
    heights = RAMP.astype(np.float32) + 1000
    for text in ("0", "-9999", "1e300", "1000.5", "none"):
        assert distance(tiff(heights, extratags=[(42113, "s", 0, text, True)]), GREY) < 1
    depth = RAMP.astype(np.uint16) * 257
    for text in ("-9999", "70000", "nan", "-3.4e38"):
        assert distance(tiff(depth, extratags=[(42113, "s", 0, text, True)]), GREY) < 1


X_LEFT = np.mgrid[:40, :52][1] < 5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pages_are_turned_upright(orientation: int, compression: str | None) -> None:
    data = tiff(RGB16, photometric="rgb", compression=compression, extratags=[(274, "H", 1, orientation, True)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (decode(data) == decode(encoded(Image.fromarray(RGB), "PNG", exif=exif))).all()


def test_the_first_page_counts() -> None:
    assert (decode(tiff(np.stack([RAMP, 255 - RAMP, RAMP]), photometric="minisblack")) == GREY).all()


@pytest.mark.parametrize(
    ("extra", "words"),
    [([(50706, "B", 4, (1, 4, 0, 0), True)], "raw photo"), ([(254, "I", 1, 1, True)], "thumbnail")],
    ids=["DNG", "reduced"],
)
def test_a_thumbnail_is_not_taken_for_the_photo(extra: list[tuple[Any, ...]], words: str) -> None:
    options: dict[str, Any] = {"subfiletype": 1} if extra[0][0] == 254 else {"extratags": extra}
    assert words in reason(tiff(RGB, photometric="rgb", **options))


def deflated(body: bytes, compression: int = 8, tile: int = 0) -> bytes:
    """A TIFF of RGB in one strip or tile of this stream."""
    tags = {256: (52,), 257: (40,), 258: (8, 8, 8), 259: (compression,), 262: (2,), 277: (3,)}
    if not tile:
        return raw_tiff(np.frombuffer(body, np.uint8), {**tags, 278: (40,)})
    data = raw_tiff(np.frombuffer(body, np.uint8), {**tags, 278: (40,), 322: (tile,), 323: (tile,)})
    return data.replace(struct.pack("<HH", 273, 4), struct.pack("<HH", 324, 4))


@pytest.mark.parametrize("compression", [8, 32946])
def test_one_wrong_bit_of_deflate_is_bad(compression: int, capfd: pytest.CaptureFixture[str]) -> None:
    body = zlib.compress(RGB.tobytes())
    assert (decode(deflated(body, compression)) == RGB).all()
    for at in range(2, len(body), len(body) // 60):
        wrong = bytearray(body)
        wrong[at] ^= 1 << at % 8
        assert "TIFF" in reason(deflated(bytes(wrong), compression))
    assert capfd.readouterr() == ("", "")


def test_deflate_that_ends_before_its_checksum_is_bad_and_one_that_is_longer_is_good() -> None:
    body = zlib.compress(RGB.tobytes())
    for missing in (1, 3, 4):
        assert "before their checksum" in reason(deflated(body[:-missing]))
    assert "truncated" in reason(deflated(zlib.compress(RGB[:39].tobytes())))
    assert (decode(deflated(body + b"behind the end")) == RGB).all()
    for beyond in (1, 10**6, 10**8):  # the last two would take long to inflate with what they hold
        longer = zlib.compress(RGB.tobytes() + bytes(beyond))
        assert (decode(deflated(longer)) == RGB).all()
    assert "do not inflate" in reason(deflated(zlib.compress(RGB.tobytes() + bytes(999))[:-1] + b"x"))
    tile = np.pad(RGB, ((0, 24), (0, 12), (0, 0)))
    assert (decode(deflated(zlib.compress(tile.tobytes()), tile=64)) == RGB).all()
    assert "before their checksum" in reason(deflated(zlib.compress(tile.tobytes())[:-2], tile=64))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "group4"])
def test_damage_is_a_reason_and_not_a_line_on_stderr(compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    data = bytearray(encoded(image.convert("1") if compression == "group4" else image, "TIFF", compression=compression))
    at = len(data) // 3
    data[at : at + 60] = b"\xff" * 60
    said = reason(bytes(data))
    assert "TIFF" in said
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("stored", STORED[:5], ids=str)
def test_a_truncated_file_is_bad(stored: dict[str, Any]) -> None:
    data = tiff(RGB16, photometric="rgb", **stored)
    for share in (0.3, 0.9):
        assert "TIFF" in reason(data[: int(len(data) * share)])
