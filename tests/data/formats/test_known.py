"""Which formats are read, and what is said of everything else."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from PIL import Image

from moco_ray.config.data import DataConfig
from moco_ray.data.formats.extensions import EXTENSIONS_OF, IMAGE_EXTENSIONS
from moco_ray.data.formats.known import FORMATS
from moco_ray.data.sources import build_manifest
from moco_ray.storage.storage import resolve_storage_options
from tests.data.formats.scene import RGB, chunk, decode, encoded, reason, tiff

IMAGE = Image.fromarray(RGB)


def test_folders_are_searched_for_the_extensions_of_the_formats_that_are_read(tmp_path: Path) -> None:
    for extension in IMAGE_EXTENSIONS:
        (tmp_path / f"x{extension}").write_bytes(b"x")
        (tmp_path / f"y{extension.upper()}").write_bytes(b"x")
    for other in (".eps", ".heic", ".dcm", ".psd", ".fits"):
        (tmp_path / f"x{other}").write_bytes(b"x")
    config = DataConfig(uri=str(tmp_path))
    manifest = build_manifest(config, resolve_storage_options(str(tmp_path), None))
    assert len(manifest) == 2 * len(IMAGE_EXTENSIONS)


def test_every_format_is_found_by_its_bytes() -> None:
    files = {
        "JPEG": encoded(IMAGE, "JPEG"),
        "PNG": encoded(IMAGE, "PNG"),
        "WebP": encoded(IMAGE, "WEBP"),
        "TIFF": tiff(RGB, photometric="rgb", bigtiff=True, byteorder=">"),
        "GIF": encoded(IMAGE, "GIF"),
        "BMP": encoded(IMAGE, "BMP"),
        "JPEG 2000": encoded(IMAGE, "JPEG2000"),
        "AVIF": encoded(IMAGE, "AVIF"),
        "PNM": encoded(IMAGE, "PPM"),
        "TGA": encoded(IMAGE, "TGA"),
    }
    assert {kind.name for kind in FORMATS} == set(files) == set(EXTENSIONS_OF)
    for name, data in files.items():
        assert [kind.name for kind in FORMATS if kind.accepts(data)] == [name]
        assert decode(data).shape == RGB.shape


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git-lfs pointer"),
        (b"\n\n<!DOCTYPE html><html>", "HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "XML"),
        (b"<?xml version='1.0'?>\n<svg xmlns=''>", "SVG"),
        (b'{"message": "Not Found"}', "known format: text that begins"),
        (b"%PDF-1.7", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heix", "pillow-heif"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "mp42"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x0a\xff\x0a" * 9, "JPEG XL"),
        (bytes(128) + b"DICM" + bytes(99), "DICOM"),
        (b"8BPS\0\1", "Photoshop"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"\0\0\1\0\1\0\x10\x10" + bytes(40), "ICO"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PK\x03\x04", "zip"),
        (b"\x93NUMPY\1\0", "numpy"),
        (b"P7\nWIDTH 2\n", "PAM"),
        (bytes(5000), "nothing but bytes of 0"),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08\x09", "01 02 03 04 05 06 07 08"),
        (b"", "empty file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_picture_is_named(data: bytes, words: str) -> None:
    assert words in reason(data)


@pytest.mark.parametrize("program", ["gs", "gswin64c", "inkscape"])
def test_no_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    (tmp_path / program).write_text(f"#!/bin/sh\necho ran >> {tmp_path}/log\n")
    (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "PostScript" in reason(encoded(IMAGE, "EPS"))
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("name", ["ICO", "PCX", "SGI", "SPIDER", "MSP", "XBM", "DDS", "PDF", "ICNS"])
def test_formats_that_are_not_promised_are_not_opened(name: str) -> None:
    image = {"SPIDER": IMAGE.convert("F"), "MSP": IMAGE.convert("1"), "XBM": IMAGE.convert("1")}.get(name, IMAGE)
    reason(encoded(image, name))


def test_sizes_are_checked_before_memory_is_taken() -> None:
    webp = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + b"\xff\x3f\0\xff\x3f\0"
    gif = (
        b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
        + b"\2\0;"
    )
    tga = bytes([0, 0, 10]) + bytes(9) + struct.pack("<HHBB", 65535, 65535, 32, 8) + b"\0" * 40
    ppm = b"P6 60000 60000 255\n"
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 1, 0, 0, 0, 0))
    jp2 = encoded(IMAGE, "JPEG2000")
    at = jp2.index(b"\xff\x4f\xff\x51")
    jp2 = jp2[: at + 8] + struct.pack(">II", 90_000, 90_000) + jp2[at + 16 :]
    bmp = bytearray(encoded(IMAGE, "BMP"))
    bmp[18:26] = struct.pack("<ii", 90_000, 90_000)
    big = tiff(RGB, photometric="rgb")
    big = big.replace(struct.pack("<HHII", 256, 4, 1, 52), struct.pack("<HHII", 256, 4, 1, 90_000))
    for data in (webp, gif, tga, ppm, png, jp2, bytes(bmp), big):
        assert "max-pixels" in reason(data)
