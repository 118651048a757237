"""The other containers: JPEG 2000, PNM, WebP, AVIF, GIF, BMP, TGA."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.data.formats.scene import (
    ALPHA,
    GREY,
    GREY_ON_WHITE,
    ON_WHITE,
    RAMP,
    RGB,
    decode,
    distance,
    encoded,
    reason,
)

RGBA = Image.fromarray(np.dstack([RGB, ALPHA]))
LA = Image.fromarray(np.dstack([RAMP, ALPHA]))


def jp2(samples: np.ndarray, extension: str = ".jp2") -> bytes:
    """OpenCV's lossless file; its wavelets want pictures of 64 pixels and more."""
    large = np.kron(samples, np.ones((3, 3) + (1,) * (samples.ndim - 2), samples.dtype))
    return cv2.imencode(extension, large, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])[1].tobytes()


def declared(data: bytes, byte: int) -> bytes:
    """Change the depth and sign that a JPEG 2000 file declares for its bands."""
    at = data.index(b"\xff\x4f\xff\x51")
    (bands,) = struct.unpack_from(">H", data, at + 40)
    changed = bytearray(data)
    for i in range(bands):
        changed[at + 42 + 3 * i] = byte
    return bytes(changed)


def large(pixels: np.ndarray) -> np.ndarray:
    return np.kron(pixels, np.ones((3, 3, 1)))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_deep_jpeg_2000_has_the_depth_of_its_values(bits: int) -> None:
    scale = (2**bits - 1) / 255
    assert distance(jp2((RGB[..., ::-1] * scale).astype(np.uint16)), large(RGB)) < 1.1
    assert distance(jp2((RAMP * scale).astype(np.uint16)), large(GREY)) < 1.1


def test_jpeg_2000_that_declares_12_bits_or_a_sign_is_scaled_by_it() -> None:
    # A decoder adds half the declared range: 32768 of 16 bits, 2048 of 12, and nothing to signed values.
    levels = RAMP.astype(np.uint16) * 16
    twelve = declared(jp2(levels + np.uint16(32768 - 2048)), 11)
    assert distance(twelve, large(GREY)) < 1.1
    colours = RGB[..., ::-1].astype(np.uint16) * 16
    assert distance(declared(jp2(colours + np.uint16(32768 - 2048)), 11), large(RGB)) < 1.1
    hounsfield = RAMP.astype(int) * 12 - 1000
    signed = declared(jp2((hounsfield + 32768).astype(np.uint16)), 0x80 | 15)
    assert distance(signed, large(GREY)) < 1.1
    assert "signed" in reason(declared(jp2(RGB), 0x80 | 7)) and "plain RGB" in reason(declared(jp2(colours), 0x80 | 15))


@pytest.mark.parametrize("image", [RGBA, LA], ids=["RGBA", "LA"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True, "exact": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TGA", {}),
        ("TGA", {"compression": "tga_rle"}),
        ("JPEG2000", {}),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
    ],
    ids=str,
)
def test_alpha_is_put_on_white(image: Image.Image, name: str, options: dict[str, Any]) -> None:
    assert distance(encoded(image, name, **options), ON_WHITE if image.mode == "RGBA" else GREY_ON_WHITE) < 2.5


def test_alpha_of_bmp_and_gif_is_put_on_white() -> None:
    data = cv2.imencode(".bmp", np.dstack([RGB[..., ::-1], ALPHA]))[1].tobytes()
    assert distance(data, ON_WHITE) < 1
    palette = Image.fromarray(RGB).quantize(8)
    wanted = np.asarray(palette.convert("RGB")).copy()
    wanted[np.asarray(palette) == 3] = 255
    assert (decode(encoded(palette, "GIF", transparency=3)) == wanted).all()


@pytest.mark.parametrize("corner", [(0, 0), (8, 0), (0, 10), (8, 10)])
@pytest.mark.parametrize("has_transparency", [False, True])
def test_what_a_gifs_first_frame_does_not_cover_is_clear(corner: tuple[int, int], has_transparency: bool) -> None:
    palette = Image.fromarray(RGB).quantize(8)
    colours = np.asarray(palette.convert("RGB")).copy()
    data = bytearray(encoded(palette, "GIF", **({"transparency": 3} if has_transparency else {})))
    left, top = corner
    at = data.index(b",\0\0\0\0" + struct.pack("<HH", 52, 40))
    data[at + 1 : at + 5] = struct.pack("<HH", left, top)
    data[6:10] = struct.pack("<HH", 60, 50)
    if has_transparency:
        colours[np.asarray(palette) == 3] = 255
    wanted = np.full((50, 60, 3), 255, np.uint8)
    wanted[top : top + 40, left : left + 52] = colours
    assert (decode(bytes(data)) == wanted).all()


def test_tga_without_bits_of_alpha_keeps_its_colours() -> None:
    data = bytearray(encoded(RGBA, "TGA"))
    data[17] &= 0xF0
    assert (decode(bytes(data)) == RGB).all()
    assert (decode(encoded(Image.fromarray(RAMP), "TGA")) == GREY).all()
    palette = Image.fromarray(RGB).quantize(16)
    assert (decode(encoded(palette, "TGA")) == np.asarray(palette.convert("RGB"))).all()


@pytest.mark.parametrize("extension", [".pbm", ".pgm", ".ppm"])
@pytest.mark.parametrize("is_binary", [False, True])
def test_pnm_of_8_bits_is_opencvs(extension: str, is_binary: bool) -> None:
    samples = (
        RGB[..., ::-1] if extension == ".ppm" else (RAMP > 99).astype(np.uint8) * 255 if extension == ".pbm" else RAMP
    )
    data = cv2.imencode(extension, samples, [cv2.IMWRITE_PXM_BINARY, int(is_binary)])[1].tobytes()
    assert (decode(data) == (RGB if extension == ".ppm" else np.repeat(samples[..., None], 3, axis=2))).all()


@pytest.mark.parametrize("top", [1, 15, 255, 1000, 4095, 65535])
@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_pnm_is_scaled_by_the_maximum_that_it_states(top: int, is_binary: bool, channels: int) -> None:
    scene = RGB if channels == 3 else RAMP[..., None]
    values = (scene.astype(np.uint32) * top // 255).astype(np.uint16)
    magic = {(1, False): 2, (3, False): 3, (1, True): 5, (3, True): 6}[channels, is_binary]
    head = b"P%d # a comment\n#another\n52\t40\n%d\n" % (magic, top)
    numbers = b"#no number 5\n" + b" ".join(b"%d" % value for value in values.reshape(-1))
    body = values.astype(np.uint8 if top < 256 else ">u2").tobytes() if is_binary else numbers
    assert distance(head + body, np.broadcast_to(values * 255.0 / top, RGB.shape)) < 1
    if top == 65535:  # and 12 bits in 16 have their own depth
        twelve = (
            (values >> 4).astype(">u2").tobytes()
            if is_binary
            else b" ".join(b"%d" % (v >> 4) for v in values.reshape(-1))
        )
        assert distance(head + twelve, np.broadcast_to(scene, RGB.shape)) < 1.1


def test_floatmaps_begin_at_the_bottom() -> None:
    data = encoded(Image.fromarray(RAMP.astype(np.float32) + np.linspace(0, 50, 40, dtype=np.float32)[:, None]), "PPM")
    wanted = (RAMP + np.linspace(0, 50, 40)[:, None]) * 255 / 305
    assert distance(data, np.repeat(wanted[..., None], 3, axis=2)) < 1
    colours = b"PF\n52 40\n-1.0\n" + RGB[::-1].astype("<f4").tobytes()
    assert distance(colours, RGB) < 0.6


@pytest.mark.parametrize(
    "data",
    [b"P5\n9 9\n255\nabc", b"P2 2 2 255 1 2 3", b"P2 2 2 255 1 2 3 x", b"P5 2 2 70000 ", b"P6 2", b"P1 2 2 0120"],
)
def test_pnm_that_is_not_whole_is_bad(data: bytes) -> None:
    assert "PNM" in reason(data)


def test_10_bit_avif_is_read(tmp_path: Any) -> None:
    colours = RGB[..., ::-1].astype(np.uint16) * 4
    done, data = cv2.imencode(".avif", colours, [cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_QUALITY, 100])
    if not done:
        pytest.skip("OpenCV is built without AVIF")
    assert distance(data.tobytes(), RGB) < 3


def test_four_bands_of_jpeg_2000_are_colours_only_where_it_says_so() -> None:
    data = encoded(RGBA, "JPEG2000")
    assert b"cdef" in data
    assert distance(data.replace(b"cdef", b"free"), RGB) == 0  # RGB and something: the colours
    assert "does not say" in reason(data[data.index(b"\xff\x4f\xff\x51") :])
    two = encoded(LA, "JPEG2000")
    assert "second may be anything" in reason(two.replace(b"cdef", b"free"))
