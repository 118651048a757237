"""Decoding: upright RGB, and one exception with a reason for everything that is no image."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from moco_ray.data.decode import BadImage, decode_image

MAX_PIXELS = 1_000_000


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    pixels = decode_image(data, max_pixels=max_pixels)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert pixels.flags.writeable and pixels.flags.c_contiguous
    return pixels


def photo(height: int = 37, width: int = 53) -> np.ndarray:
    """Smooth colours, so that lossy formats stay close."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + phase) * np.cos(y / 7) * 100 + 128 for phase in (0, 1, 2)]
    return np.stack(waves, axis=2).astype(np.uint8)


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


RGB = Image.fromarray(photo())


@pytest.mark.parametrize(
    "data",
    [
        encoded(RGB, "JPEG", quality=90),
        encoded(RGB, "JPEG", subsampling=0, progressive=True),
        encoded(RGB, "JPEG", quality=30, subsampling=1),
        encoded(RGB, "JPEG", keep_rgb=True),
        encoded(RGB.convert("L"), "JPEG"),
        encoded(RGB.convert("CMYK"), "JPEG"),
        encoded(RGB, "JPEG", icc_profile=b"x" * 70_000),
        encoded(RGB, "PNG"),
        encoded(RGB.convert("L"), "PNG"),
        encoded(RGB.convert("1"), "PNG"),
        encoded(RGB.quantize(16), "PNG"),
        encoded(RGB, "WEBP"),
        encoded(RGB, "BMP"),
        encoded(RGB, "TIFF", compression="tiff_lzw"),
        encoded(RGB.convert("LA"), "PNG"),
        encoded(RGB.quantize(16), "GIF"),
    ],
    ids=[
        "jpeg 4:2:0", "progressive 4:4:4", "jpeg 4:2:2", "rgb jpeg", "grey jpeg", "cmyk jpeg", "long icc", "png",
        "grey png", "bilevel", "palette", "webp", "bmp", "tiff", "grey alpha", "gif",
    ],
)  # fmt: skip
def test_pixels_equal_pillows(data: bytes) -> None:
    assert (decode(data) == pillow(data)).all()


def test_cmyk_jpeg_keeps_its_colours() -> None:
    pixels = decode(encoded(RGB.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - photo()).mean() < 4


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_applied(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(encoded(RGB, image_format, exif=exif))
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    expected = np.rot90(photo(), turns)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 8


def test_broken_exif_does_not_hide_the_image() -> None:
    plain = encoded(RGB, "JPEG")
    segment = b"Exif\0\0MM\0*\xff\xff\xff\xff garbage"
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    assert (decode(data) == decode(plain)).all()


def test_an_alpha_that_was_never_set_leaves_the_colours() -> None:
    rgba = np.dstack([photo(), np.zeros((37, 53), np.uint8)])
    assert (decode(encoded(Image.fromarray(rgba), "PNG")) == photo()).all()
    assert (decode(encoded(Image.new("RGBA", (9, 9)), "PNG")) == 255).all()


@pytest.mark.parametrize("level", [0, 128, 250, 255])
@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_a_drawing_in_the_alpha_channel_alone_is_seen(level: int, image_format: str) -> None:
    """Black and grey icons stand on white, white ones on black."""
    rgba = np.full((16, 16, 4), level, np.uint8)
    rgba[..., 3] = np.kron(np.eye(4), np.ones((4, 4))) * 255
    options: dict[str, Any] = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    pixels = decode(encoded(Image.fromarray(rgba), image_format, **options))
    ground = 0 if level >= 240 else 255
    assert (pixels == np.where(rgba[..., 3:] == 255, level, ground)).all()


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP"])
def test_animations_give_their_first_frame(image_format: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    options: dict[str, Any] = {"lossless": True} if image_format == "WEBP" else {}
    data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    assert (decode(data) == [255, 0, 0]).all()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF"])
def test_one_pixel_is_an_image(image_format: str) -> None:
    assert decode(encoded(Image.new("RGB", (1, 1), "white"), image_format)).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
@pytest.mark.parametrize(("bits", "depth"), [(8, 8), (9, 10), (10, 10), (12, 12), (13, 14), (16, 16)])
def test_16_bit_files_use_the_depth_of_their_values(image_format: str, bits: int, depth: int) -> None:
    values = np.linspace(0, 2**bits - 1, 64 * 4).astype(np.uint16).reshape(4, 64)
    pixels = decode(encoded(Image.fromarray(values), image_format))
    assert (pixels[..., 0] == values.astype(int) * 255 // (2**depth - 1)).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_32_bit_and_float_tiffs_fill_the_range() -> None:
    values = np.linspace(0, 2**20, 64, dtype=np.int32).reshape(4, 16)
    assert np.ptp(decode(encoded(Image.fromarray(values), "TIFF"))) > 100
    heights = np.linspace(-3.0, 7.0, 64, dtype=np.float32).reshape(4, 16)
    heights[0, 5] = np.nan
    pixels = decode(encoded(Image.fromarray(heights), "TIFF"))
    assert pixels.min() == 0 and pixels.max() == 255
    assert (decode(encoded(Image.fromarray(np.full((4, 4), 2.5, np.float32)), "TIFF")) == 0).all()


def _png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "not an image of a known format: text that begins 'hello'"),
        (b"\xff\xd8\xff", "JPEG does not decode"),
        (b"\xff\xd8", "first bytes of a JPEG"),
        (b"<html>404</html>" * 50, "an HTML page"),
        (encoded(RGB, "JPEG")[:-40], "truncated"),
        (encoded(RGB, "PNG")[:300], "truncated"),
        (_png_claiming(200_000, 200_000), "max-pixels"),
        (_png_claiming(5_000, 5_000), "max-pixels"),
        (encoded(Image.new("RGB", (1001, 1000)), "JPEG"), "max-pixels"),
    ],
    ids=[
        "empty",
        "text",
        "magic only",
        "half a magic",
        "html",
        "half a jpeg",
        "half a png",
        "bomb",
        "large png",
        "large jpeg",
    ],
)
def test_bad_bytes_give_a_short_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason) as caught:
        decode(data)
    assert len(str(caught.value)) < 150


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what it met on the way
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_nothing_but_bad_image_escapes_on_damaged_bytes(image_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, Any] = {} if image_format in ("BMP", "GIF") else {"exif": exif}
    data = encoded(Image.fromarray(photo(16, 20)), image_format, **options)
    generator = np.random.default_rng(0)
    for trial in range(250):
        damaged = bytearray(data)
        if trial % 2:
            del damaged[int(generator.integers(len(damaged))) :]
        for at in generator.integers(0, max(len(damaged), 1), int(generator.integers(1, 12))):
            if damaged:
                damaged[int(at)] = int(generator.integers(256))
        with contextlib.suppress(BadImage):
            decode(bytes(damaged))


def test_nothing_but_bad_image_escapes_where_headers_lie() -> None:
    generator = np.random.default_rng(1)
    deep = np.dstack([photo(16, 20)] * 2).astype(np.uint16)[..., :4]
    files = [
        encoded(Image.fromarray(photo(16, 20)), "TIFF", compression="tiff_lzw"),
        encoded(Image.fromarray(photo(16, 20)[..., 0].astype(np.int32)), "TIFF"),
        cv2.imencode(".png", deep)[1].tobytes(),
        encoded(Image.fromarray(photo(16, 20)), "JPEG2000"),
        encoded(Image.fromarray(photo(16, 20)), "PPM"),
        encoded(Image.fromarray(photo(16, 20)), "TGA"),
    ]
    for data in files:
        for _ in range(150):
            damaged = bytearray(data)
            for at in generator.integers(0, min(len(data), 220), int(generator.integers(1, 5))):
                damaged[int(at)] = int(generator.choice([0, 1, 2, 255, int(generator.integers(256))]))
            with contextlib.suppress(BadImage):
                decode(bytes(damaged), max_pixels=100_000)
