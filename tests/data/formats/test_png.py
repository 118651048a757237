"""PNG: every depth, transparency of every kind, and chunks that are damaged or too large."""

from __future__ import annotations

import struct
import zlib

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
    chunk,
    decode,
    distance,
    encoded,
    packed,
    png,
    png16,
    reason,
    rgb_png,
)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_colour_has_the_depth_of_its_values(bits: int) -> None:
    deep = (RGB.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    assert distance(png16(deep), RGB) < 1.1
    assert distance(cv2.imencode(".png", deep[..., ::-1])[1].tobytes(), RGB) < 1.1
    opaque = np.full_like(RAMP, 65535, np.uint16)
    for alpha in (opaque, np.full_like(opaque, 2**bits - 1)):
        assert distance(png16(np.dstack([deep, alpha])), RGB) < 1.1
        assert distance(png16(np.dstack([deep[..., :1], alpha])), GREY) < 1.1


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_16_bit_alpha_is_put_on_white(bits: int) -> None:
    scale, alpha = (2**bits - 1) // 255, ALPHA.astype(np.uint16) * 257
    assert distance(png16(np.dstack([RGB.astype(np.uint16) * scale, alpha])), ON_WHITE) < 1.5
    assert distance(png16(np.dstack([RAMP.astype(np.uint16) * scale, alpha])), GREY_ON_WHITE) < 1.5


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_small_greys_and_palettes_fill_the_range(bits: int) -> None:
    levels = (RAMP.astype(np.uint16) * (2**bits - 1) // 255).astype(np.uint8)
    wanted = np.repeat((levels * (255 // (2**bits - 1)))[..., None], 3, axis=2)
    assert (decode(png(packed(levels, bits), bits, 0, width=52)) == wanted).all()
    colours = np.random.default_rng(bits).integers(0, 256, (2**bits, 3), dtype=np.uint8)
    alphas = np.random.default_rng(bits).integers(1, 256, 2**bits, dtype=np.uint8)
    palette = chunk(b"PLTE", colours.tobytes())
    assert (decode(png(packed(levels, bits), bits, 3, palette, 52)) == colours[levels]).all()
    clear = palette + chunk(b"tRNS", alphas.tobytes())
    on_white = colours[levels] * (alphas[levels][..., None] / 255) + 255 - alphas[levels][..., None]
    assert distance(png(packed(levels, bits), bits, 3, clear, 52), on_white) < 0.6


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_white(bits: int) -> None:
    levels = (RAMP.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    key = int(levels[0, 0])
    rows = packed(levels, bits) if bits < 16 else np.ascontiguousarray(levels.astype(">u2")).view(np.uint8)
    data = png(rows, bits, 0, chunk(b"tRNS", struct.pack(">H", key)), 52)
    wanted = np.where((levels == key)[..., None], 255, np.repeat((levels * 255.0 / (2**bits - 1))[..., None], 3, 2))
    if bits == 1:  # what is left is white too, so it stands on black
        wanted = np.repeat(np.where(levels == key, 0, 255)[..., None], 3, axis=2)
    assert distance(data, wanted) < 1


@pytest.mark.parametrize("scale", [1, 257])
def test_a_transparent_colour_is_white_and_compared_at_full_depth(scale: int) -> None:
    deep = RGB.astype(np.uint16) * scale
    extra = chunk(b"tRNS", struct.pack(">3H", *(int(value) for value in deep[7, 9])))
    wanted = np.where((RGB[7, 9] == RGB).all(axis=2, keepdims=True), 255, RGB)
    data = rgb_png(extra) if scale == 1 else png16(deep, extra)
    assert distance(data, wanted) < 0.1
    if scale > 1:  # 1 of 65535 beside it is another colour
        near = chunk(b"tRNS", struct.pack(">3H", *(int(value) ^ 1 for value in deep[7, 9])))
        assert distance(png16(deep, near), RGB) < 0.1


@pytest.mark.parametrize("length", [0, 1, 3, 5, 7, 12, 300])
def test_a_transparency_of_a_wrong_length_is_passed_over(length: int, capfd: pytest.CaptureFixture[str]) -> None:
    extra = chunk(b"tRNS", bytes(length))
    assert (decode(rgb_png(extra)) == RGB).all()
    assert (decode(png16(RGB.astype(np.uint16) * 257, extra)) == RGB).all()
    assert (decode(png(RAMP, 8, 0, extra)) == GREY).all()
    colours = np.array([[9, 8, 7], [200, 100, 50]], np.uint8)
    palette = chunk(b"PLTE", colours.tobytes())
    if length > 2:
        assert (decode(png(RAMP % 2, 8, 3, palette + extra)) == colours[RAMP % 2]).all()
    assert capfd.readouterr() == ("", "")


def rows_of(samples: np.ndarray, is_interlaced: bool) -> list[bytes]:
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = []
    for top, left, down, across in passes if is_interlaced else [(0, 0, 1, 1)]:
        part = samples[top::down, left::across]
        rows += [b"\0" + row.tobytes() for row in part if row.size]
    return rows


def of_stream(stream: bytes, size: tuple[int, int], depth: int, is_interlaced: bool, extra: bytes = b"") -> bytes:
    """A PNG of RGB whose pixels are this deflated stream."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], depth, 2, 0, 0, int(is_interlaced)))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(40, 52), (1, 1), (1, 9), (5, 1), (3, 3), (33, 7)])
def test_interlaced_deep_colour_is_read(size: tuple[int, int]) -> None:
    deep = (RGB[: size[0], : size[1]].astype(np.uint16) * 257).astype(">u2")
    deep[0, 0, 0] = 65535  # so that small parts have 16 bits too
    stream = zlib.compress(b"".join(rows_of(deep, True)))
    assert (decode(of_stream(stream, size, 16, True)) == deep // 257).all()


@pytest.mark.parametrize("is_interlaced", [False, True])
@pytest.mark.parametrize("depth", [8, 16])
def test_a_filter_that_does_not_exist_is_bad(
    depth: int, is_interlaced: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    samples = RGB if depth == 8 else (RGB.astype(np.uint16) * 257).astype(">u2")
    rows = rows_of(samples, is_interlaced)
    for at in (0, 1, len(rows) // 2, len(rows) - 1):
        for code in (5, 255):
            wrong = [*rows[:at], bytes([code]) + rows[at][1:], *rows[at + 1 :]]
            said = reason(of_stream(zlib.compress(b"".join(wrong)), (40, 52), depth, is_interlaced))
            assert said == f"PNG whose row {at} has a filter that does not exist" if depth == 16 else "PNG" in said
    assert capfd.readouterr() == ("", "")


def test_deep_colour_with_an_odd_palette_or_without_its_checksum_says_nothing_on_stderr(
    capfd: pytest.CaptureFixture[str],
) -> None:
    deep = (RGB.astype(np.uint16) * 257).astype(">u2")
    stream = zlib.compress(b"".join(rows_of(deep, False)))
    for body in (b"", bytes(4), bytes(768), bytes(771)):
        palette = chunk(b"PLTE", body)
        assert (decode(of_stream(stream, (40, 52), 16, False, palette + palette)) == RGB).all()
    assert "before their checksum" in reason(of_stream(stream[:-4], (40, 52), 16, False))
    whole = of_stream(stream, (40, 52), 16, False)
    assert "with several" in reason(whole[:33] + whole[8:])
    assert capfd.readouterr() == ("", "")


def test_metadata_does_not_lose_whole_pixels() -> None:
    long = zlib.compress(b"x" * 3_000_000, 9)
    broken = chunk(b"tEXt", b"Comment\0hi")[:-4] + bytes(4)
    for extra in (
        chunk(b"zTXt", b"workflow\0\0" + long),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + long),
        chunk(b"tEXt", b"k\0" + b"x" * 2_000_000) * 40,
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(5_000_000))),
        chunk(b"iCCP", b"no end"),
        broken,
        chunk(b"eXIf", b"garbage"),
        chunk(b"gAMA", b""),
        chunk(b"acTL", struct.pack(">II", 0, 0)),
        chunk(b"tIME", b"\xff"),
    ):
        assert (decode(rgb_png(extra)) == RGB).all()


def test_a_missing_end_chunk_and_bytes_behind_it_harm_nothing() -> None:
    assert (decode(rgb_png()[:-12]) == RGB).all()
    assert (decode(rgb_png()[:-3]) == RGB).all()
    assert (decode(rgb_png() + b"trailing" * 1000) == RGB).all()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data.replace(b"IDAT", b"IDAT\0", 1), "IDAT"),
        (lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:], "broken checksum in chunk IDAT"),
        (lambda data: data[:20] + b"\1" + data[21:], "broken checksum in chunk IHDR"),
        (lambda data: data[:400], "truncated: it ends inside chunk IDAT"),
        (lambda data: data[:33], "before the pixels"),
        (lambda data: data[:8], "without a header"),
        (lambda data: data[:8] + chunk(b"CgBI", bytes(4)) + data[8:], "CgBI"),
        (lambda data: data.replace(data[8:33], chunk(b"IHDR", struct.pack(">IIBBBBB", 52, 40, 5, 2, 0, 0, 0))), "kind"),
        (lambda data: data.replace(data[8:33], chunk(b"IHDR", struct.pack(">IIBBBBB", 52, 40, 8, 3, 0, 0, 0))), "palette"),
        (lambda data: data.replace(data[8:33], chunk(b"IHDR", struct.pack(">IIBBBBB", 52, 90, 8, 2, 0, 0, 0))), "rows of pixels are missing"),
        (lambda data: data.replace(data[8:33], chunk(b"IHDR", struct.pack(">IIBBBBB", 52, 40, 16, 2, 0, 0, 0))), "rows"),
        (lambda data: data.replace(data[8:33], chunk(b"IHDR", struct.pack(">IIBBBBB", 10**6, 10**6, 16, 6, 0, 0, 0))), "max-pixels"),
    ],
)  # fmt: skip
def test_damage_of_the_pixels_is_named(damage, words: str, capfd: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    assert words in reason(damage(rgb_png()))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("deep", [False, True])
def test_orientation_is_found_in_exif_in_text_and_in_xmp(orientation: int, deep: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = exif.tobytes()
    hexadecimal = b"\nexif\n%8d\n%s\n" % (len(content), content.hex().encode())
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="%d"/>' % orientation
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    for extra in (
        chunk(b"eXIf", content.removeprefix(b"Exif\0\0")),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexadecimal)),
        chunk(b"tEXt", b"Raw profile type exif\0" + hexadecimal),
        chunk(b"iTXt", xmp),
    ):
        data = png16(RGB.astype(np.uint16) * 257, extra) if deep else rgb_png(extra)
        assert (decode(data) == np.rot90(RGB, turns)).all()


def test_of_an_animation_the_default_picture_counts() -> None:
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    assert (decode(encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])) == RGB).all()
    hidden = encoded(frames[0], "PNG", save_all=True, append_images=frames, default_image=True)
    assert (decode(hidden) == RGB).all()
