"""Pillow under our policies, inside a program that has its own."""

from __future__ import annotations

import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile

from moco_ray.data.formats import pillow
from tests.data.formats.scene import RGB, chunk, decode, encoded, png, reason, tiff


@pytest.fixture(autouse=True)
def _alone() -> None:
    """Wait for the decoders that a stream of an earlier test may have left at work."""
    while pillow._inside:
        time.sleep(0.01)


def large_files() -> list[bytes]:
    """400 x 300 pixels in the formats that Pillow checks in different places."""
    image = Image.new("RGB", (400, 300), "red")
    grey = tiff(np.zeros((300, 400), np.uint8), compression="zlib")
    names = ("PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "TGA", "PPM", "AVIF")
    return [*(encoded(image, name) for name in names), encoded(image.convert("CMYK"), "JPEG"), grey]


@pytest.mark.parametrize("limit", [1, 1000, 100_000])
def test_the_limit_of_pixels_is_ours_alone(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for data in large_files():
        assert decode(data, max_pixels=120_000).shape == (300, 400, 3)
        assert "max-pixels" in reason(data, max_pixels=119_999)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("forgiving", [False, True])
def test_half_a_picture_is_bad_whatever_the_program_wants(monkeypatch: pytest.MonkeyPatch, forgiving: bool) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", forgiving)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for name in ("PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG", "TGA", "PPM", "AVIF"):
        data = encoded(noise, name)
        reason(data[: len(data) * 2 // 3])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is forgiving


def test_the_programs_policies_come_back_after_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1234)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    files = large_files() * 6
    start = threading.Barrier(4)

    def work(part: int) -> int:
        start.wait()
        return sum(decode(data).shape[0] == 300 for data in files[part::4])

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == len(files)
    assert Image.MAX_IMAGE_PIXELS == 1234 and ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_reasons_of_threads_are_not_mixed() -> None:
    whole = encoded(Image.fromarray(RGB), "TIFF", compression="tiff_lzw")
    broken = bytearray(whole)
    broken[200:260] = b"\xff" * 60

    def work(i: int) -> bool:
        return "TIFF is damaged" in reason(bytes(broken)) if i % 2 else bool((decode(whole) == RGB).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(80)))


def test_metadata_that_inflates_takes_no_memory() -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    rows = np.zeros((8, 3 * 8), np.uint8)
    for name, head in ((b"zTXt", b"k\0\0"), (b"iCCP", b"p\0\0"), (b"zTXt", b"Raw profile type exif\0\0")):
        assert decode(png(rows, 8, 2, chunk(name, head + bomb) * 3, 8)).shape == (8, 8, 3)
