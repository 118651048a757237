"""JPEG: whole pixels are good without an end marker, made-up ones are bad."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.formats.scene import decode, distance, encoded, reason

Y, X = np.mgrid[:120, :160]
SMOOTH = np.stack([np.sin(X / 9 + phase) * np.cos(Y / 7) * 100 + 128 for phase in (0, 1, 2)], axis=2).astype(np.uint8)
IMAGE = Image.fromarray(SMOOTH)


def with_exif(data: bytes, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = exif.tobytes()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_file_without_its_end_marker_is_whole(mode: str, progressive: bool) -> None:
    data = encoded(IMAGE.convert(mode), "JPEG", quality=90, progressive=progressive)
    for orientation in (1, 6):
        whole = with_exif(data, orientation)
        assert (decode(whole[:-2]) == decode(whole)).all()
        assert (decode(whole[:-1]) == decode(whole)).all()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_missing_rows_are_bad_with_and_without_an_end_marker(mode: str, progressive: bool, share: float) -> None:
    data = encoded(IMAGE.convert(mode), "JPEG", quality=90, progressive=progressive)
    part = data[: int(len(data) * share)]
    assert "truncated" in reason(part)
    assert "JPEG" in reason(part + b"\xff\xd9")


def test_a_progressive_file_that_lacks_whole_scans_is_bad() -> None:
    data = encoded(IMAGE, "JPEG", quality=90, progressive=True)
    scans = [at for at in range(len(data)) if data[at : at + 2] == bytes([0xFF, 0xDA])]
    assert "truncated" in reason(data[: scans[-1]])


def test_a_damaged_middle_is_bad_where_the_decoder_notices() -> None:
    data = encoded(IMAGE, "JPEG", quality=90)
    broken = data[:1500] + bytes([0xFF, 0xD9]) + data[1502:]
    assert "damaged or truncated" in reason(broken)


def test_stray_bytes_before_the_end_marker_are_forgiven() -> None:
    data = encoded(IMAGE, "JPEG", quality=90)
    assert (decode(data[:-2] + b"stray" + data[-2:]) == decode(data)).all()
    assert (decode(data + b"behind the end" * 99) == decode(data)).all()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 2}], ids=str)
@pytest.mark.parametrize("share", [0.02, 0.1])
def test_codes_that_the_decoder_had_left_over_are_damage(options: dict[str, Any], share: float) -> None:
    data = encoded(IMAGE, "JPEG", quality=90, **options)
    start, count = int(len(data) * 0.3), int(len(data) * share)
    noise = np.random.default_rng(0).integers(0, 255, count, dtype=np.uint8).tobytes()
    assert "damaged or truncated" in reason(data[:start] + noise + data[start + count :])


@pytest.mark.parametrize("padding", [b"\0", b"\0" * 3000, b"\x55" * 100, b"\xff" * 50, b"\r\n"])
def test_padding_before_the_end_marker_is_forgiven(padding: bytes) -> None:
    for options in ({}, {"progressive": True}):
        data = encoded(IMAGE, "JPEG", quality=90, **options)
        assert (decode(data[:-2] + padding + data[-2:]) == decode(data)).all()
    with_preview = data[:-2] + padding + data[-2:] + data  # as cameras append
    assert (decode(with_preview) == decode(data)).all()


@pytest.mark.parametrize("start", [b"\r\n", b"\xef\xbb\xbf", b"HTTP/1.1 200 OK\r\n\r\n", b"\0" * 40])
def test_bytes_before_the_start_are_counted(start: bytes) -> None:
    assert f"a JPEG with {len(start)} bytes before its start" in reason(start + encoded(IMAGE, "JPEG"))
    assert f"a PNG with {len(start)} bytes before its start" in reason(start + encoded(IMAGE, "PNG"))


def test_other_depths_are_named() -> None:
    data = bytearray(encoded(IMAGE, "JPEG"))
    at = data.index(bytes([0xFF, 0xC0]))
    data[at + 4] = 12
    assert "JPEG of 12 bits" in reason(bytes(data))


@pytest.mark.parametrize("marker", [b"\xff\x01", b"\xff\xd0", b"\xff\xd7", b"\xff\xff\xff\x01\xff\xd3"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_markers_without_a_length_before_the_frame_are_passed_over(mode: str, marker: bytes) -> None:
    data = with_exif(encoded(IMAGE.convert(mode), "JPEG", quality=90), 6)
    wanted = decode(data)
    assert wanted.shape == (160, 120, 3)
    tables = data.index(b"\xff\xdb")
    for at in (2, tables):
        assert (decode(data[:at] + marker + data[at:]) == wanted).all()
        assert "truncated" in reason(data[:at] + marker + data[at : len(data) // 2])


def test_thousands_of_scans_are_refused_by_count() -> None:
    data = encoded(IMAGE, "JPEG", progressive=True)
    last = data.rindex(bytes([0xFF, 0xDA]))
    bomb = data[:-2] + data[last:-2] * 2000 + data[-2:]
    assert "scans" in reason(bomb)


def test_a_size_is_read_before_pixels() -> None:
    data = bytearray(encoded(IMAGE, "JPEG"))
    at = data.index(bytes([0xFF, 0xC0]))
    data[at + 5 : at + 9] = struct.pack(">HH", 65000, 65000)
    assert "max-pixels" in reason(bytes(data))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_cmyk_and_rgb_are_turned_alike(orientation: int) -> None:
    for mode in ("RGB", "CMYK"):
        plain = encoded(IMAGE.convert(mode), "JPEG", quality=95)
        exif = Image.Exif()
        exif[0x0112] = orientation
        wanted = decode(encoded(Image.fromarray(decode(plain)), "PNG", exif=exif))
        assert distance(with_exif(plain, orientation), wanted) == 0
