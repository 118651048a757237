"""JPEG within TIFF: whole of every kind, and damage that libtiff only warns of."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.formats.scene import distance, encoded, reason

PHOTO = np.kron(np.random.default_rng(0).integers(0, 255, (15, 20, 3)), np.ones((16, 16, 1))).astype(np.uint8)


def with_jpegs(streams: list[bytes], tags: dict[int, tuple[int, ...]], size: tuple[int, int]) -> bytes:
    """A TIFF whose strips or tiles are these JPEGs."""
    height, width = size
    at, places = 8, []
    for stream in streams:
        places.append(at)
        at += len(stream)
    starts, lengths = (324, 325) if 322 in tags else (273, 279)
    tags = {
        256: (width,), 257: (height,), 258: (8,), 259: (7,), 278: (height,), **tags,
        starts: tuple(places), lengths: tuple(map(len, streams)),
    }  # fmt: skip
    entries, arrays = b"", b""
    arrays_at = at + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        stored = struct.pack(f"<{len(values)}I", *values)
        place = stored if len(values) == 1 else struct.pack("<I", arrays_at + len(arrays))
        arrays += stored if len(values) > 1 else b""
        entries += struct.pack("<HHI", tag, 4, len(values)) + place
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", at) + b"".join(streams) + directory + arrays


def as_jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    return encoded(Image.fromarray(pixels), "JPEG", quality=90, **options)


def in_tiles(pixels: np.ndarray) -> list[bytes]:
    whole = np.pad(pixels, ((0, 16), (0, 64), (0, 0)), mode="edge")
    return [as_jpeg(whole[y : y + 128, x : x + 128], subsampling=0) for y in (0, 128) for x in (0, 128, 256)]


JPEGS: dict[str, tuple[list[bytes], dict[int, tuple[int, ...]]]] = {
    "grey": ([as_jpeg(PHOTO[..., 0])], {262: (1,), 277: (1,)}),
    "YCbCr": ([as_jpeg(PHOTO, subsampling=0)], {262: (6,), 277: (3,), 530: (1, 1)}),
    "subsampled": ([as_jpeg(PHOTO)], {262: (6,), 277: (3,), 530: (2, 2)}),
    "progressive": ([as_jpeg(PHOTO, subsampling=0, progressive=True)], {262: (6,), 277: (3,), 530: (1, 1)}),
    "RGB": ([as_jpeg(PHOTO, keep_rgb=True)], {262: (2,), 277: (3,)}),
    "strips": (
        [as_jpeg(PHOTO[y : y + 64], subsampling=0) for y in range(0, 240, 64)],
        {262: (6,), 277: (3,), 278: (64,), 530: (1, 1)},
    ),
    "tiles": (in_tiles(PHOTO), {262: (6,), 277: (3,), 322: (128,), 323: (128,), 530: (1, 1)}),
    "planes": ([as_jpeg(PHOTO[..., i]) for i in range(3)], {262: (2,), 277: (3,), 284: (2,)}),
    "old": ([as_jpeg(PHOTO, subsampling=0)], {259: (6,), 262: (6,), 277: (3,), 513: (8,), 530: (1, 1)}),
}


@pytest.mark.parametrize("damage", ["none", "no end", "zeros", "cut", "a few zeros", "noise", "too small"])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_within_tiff_is_as_good_as_it_is_alone(
    kind: str, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    streams, tags = JPEGS[kind]
    last, at = streams[-1], int(len(streams[-1]) * 0.6)
    noise = np.random.default_rng(1).integers(0, 255, 400, dtype=np.uint8).tobytes()
    small = as_jpeg(PHOTO[:16, :16, 0] if kind in ("grey", "planes") else PHOTO[:16, :16], subsampling=0)
    damaged = {
        "none": last,
        "no end": last[:-2],
        "zeros": last[:at] + bytes(len(last) - at),
        "cut": last[:at],
        "a few zeros": last[:at] + bytes(300) + last[at + 300 :],
        "noise": last[:at] + noise + last[at + 400 :],
        "too small": small,
    }[damage]
    if kind == "old":
        tags = {**tags, 514: (len(damaged),)}
    data = with_jpegs([*streams[:-1], damaged], tags, PHOTO.shape[:2])
    if damage in ("none", "no end"):
        wanted = np.repeat(PHOTO[..., :1], 3, axis=2) if kind == "grey" else PHOTO
        assert distance(data, wanted) < (12 if kind == "subsampled" else 4)
    else:
        assert "TIFF: JPEG" in reason(data)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("rows", [16, 64, 240])
@pytest.mark.parametrize("mode", ["RGB", "L", "YCbCr", "CMYK"])
def test_jpegs_that_share_their_tables_are_checked(mode: str, rows: int) -> None:
    image = Image.fromarray(PHOTO).convert(mode)
    data = encoded(image, "TIFF", compression="jpeg", quality=90, tiffinfo={278: rows})
    assert distance(data, np.asarray(image.convert("RGB"))) < 12
    start = data.index(b"\xff\xda") + 40
    assert "TIFF: JPEG" in reason(data[:start] + bytes(100) + data[start + 100 :])


@pytest.mark.parametrize("change", [-2, 1])
def test_shared_tables_without_their_end_or_with_a_byte_behind_it_are_read(change: int) -> None:
    data = encoded(Image.fromarray(PHOTO), "TIFF", compression="jpeg", quality=90)
    at = data.index(struct.pack("<HH", 347, 7)) + 4
    (length,) = struct.unpack_from("<I", data, at)
    changed = data[:at] + struct.pack("<I", length + change) + data[at + 4 :] + bytes(2)
    assert distance(changed, PHOTO) < 12
