"""How the formats that are read are told apart, and names for what else is found under a picture's name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.TgaImagePlugin import TgaImageFile
from PIL.WebPImagePlugin import WebPImageFile

from moco_ray.data.formats import jpeg, jpeg2000, png, pnm, tiff, tiff_layout
from moco_ray.data.formats.bad_image import BadImage
from moco_ray.data.formats.pillow import decode_with, image_to_rgb
from moco_ray.data.formats.samples import UInt8Array, check_size, over_background

Decode = Callable[[bytes, int], UInt8Array]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format that is read; formats/extensions.py says what its files are called."""

    name: str
    accepts: Callable[[bytes], bool]
    """Whether bytes begin as files of the format do."""
    decode: Decode
    """Makes upright uint8 (H, W, 3) of bytes and the largest number of pixels."""


def _starts(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(magics)


def _plugin(plugin: type[ImageFile.ImageFile]) -> Decode:
    return partial(_decode_plugin, plugin)


def _decode_plugin(plugin: type[ImageFile.ImageFile], data: bytes, max_pixels: int) -> UInt8Array:
    return decode_with(plugin, data, max_pixels, to_rgb=image_to_rgb)


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _decode_webp(data: bytes, max_pixels: int) -> UInt8Array:
    """Check the size first: the plugin takes memory for the canvas when it opens a file."""
    kind, size = data[12:16], (1, 1)
    if kind == b"VP8X":
        size = (int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1)
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        size = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    elif kind == b"VP8 ":
        size = (int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF)
    check_size(*size, max_pixels)
    if len(data) + 1 < 8 + int.from_bytes(data[4:8], "little"):  # the last byte may be padding
        raise BadImage("WebP is truncated")
    return _decode_plugin(WebPImageFile, data, max_pixels)


def _brands(data: bytes) -> bytes:
    """Return the brands of an ISO media file, b"" for any other."""
    return data[8 : min(int.from_bytes(data[:4], "big"), 256)] if data[4:8] == b"ftyp" else b""


def _is_avif(data: bytes) -> bool:
    return any(brand in _brands(data) for brand in (b"avif", b"avis"))


def _is_pnm(data: bytes) -> bool:
    return data[:2] in pnm.MAGICS and data[2:3] in (b"\n", b"\r", b" ", b"\t", b"#")


def _is_tga(data: bytes) -> bool:
    """TGA has no magic number: accept a header whose fields agree."""
    if len(data) < 18 or data[1] > 1:
        return False
    depths = {1: (8,), 9: (8,), 2: (16, 24, 32), 10: (16, 24, 32), 3: (8, 16), 11: (8, 16)}.get(data[2], ())
    has_map = data[2] in (1, 9)
    return data[16] in depths and (not has_map or data[1] == 1) and data[12:14] != b"\0\0" and data[14:16] != b"\0\0"


def _decode_tga(data: bytes, max_pixels: int) -> UInt8Array:
    def to_rgb(image: Image.Image) -> UInt8Array:
        if data[17] & 0x0F == 0 and image.mode in ("RGBA", "LA"):  # no bit of a pixel is said to be alpha
            return np.array(image.convert("RGBA"))[..., :3].copy()
        return image_to_rgb(image)

    return decode_with(TgaImageFile, data, max_pixels, to_rgb=to_rgb)


def _decode_gif(data: bytes, max_pixels: int) -> UInt8Array:
    def to_rgb(image: Image.Image) -> UInt8Array:
        """Leave clear what the first frame does not cover, as browsers do."""
        assert isinstance(image, GifImageFile)
        frame = image.dispose_extent
        if frame is None or frame == (0, 0, *image.size):
            return image_to_rgb(image)
        left, top, right, bottom = frame
        rgba = np.array(image.convert("RGBA"))
        is_drawn = np.zeros(rgba.shape[:2], np.bool_)
        is_drawn[top:bottom, left:right] = True
        return over_background(rgba[..., :3], np.where(is_drawn, rgba[..., 3], np.uint8(0)))

    return decode_with(GifImageFile, data, max_pixels, to_rgb=to_rgb)


FORMATS = (
    Format(name="JPEG", accepts=_starts(jpeg.MAGIC), decode=jpeg.decode_jpeg),
    Format(name="PNG", accepts=_starts(png.MAGIC), decode=png.decode_png),
    Format(name="WebP", accepts=_is_webp, decode=_decode_webp),
    Format(name="TIFF", accepts=_starts(*tiff_layout.MAGICS), decode=tiff.decode_tiff),
    Format(name="GIF", accepts=_starts(b"GIF87a", b"GIF89a"), decode=_decode_gif),
    Format(name="BMP", accepts=_starts(b"BM"), decode=_plugin(BmpImageFile)),
    Format(
        name="JPEG 2000",
        accepts=_starts(jpeg2000.FILE_MAGIC, jpeg2000.CODESTREAM_MAGIC),
        decode=jpeg2000.decode_jpeg2000,
    ),
    Format(name="AVIF", accepts=_is_avif, decode=_plugin(AvifImageFile)),
    Format(name="PNM", accepts=_is_pnm, decode=pnm.decode_pnm),
    Format(name="TGA", accepts=_is_tga, decode=_decode_tga),
)

_CONVERT = "which is not read; convert it to PNG or JPEG"
_OTHERS = (
    (b"version https://git-lfs", "a git-lfs pointer and not the picture; run git lfs pull"),
    (b"%!PS", f"PostScript, {_CONVERT}"),
    (b"\xc5\xd0\xd3\xc6", f"PostScript, {_CONVERT}"),
    (b"%PDF", f"PDF, {_CONVERT}"),
    (b"8BPS", f"a Photoshop file, {_CONVERT}"),
    (b"\xff\x0a", f"JPEG XL, {_CONVERT}"),
    (b"\x00\x00\x00\x0cJXL ", f"JPEG XL, {_CONVERT}"),
    (b"II\xbc\x01", f"JPEG XR, {_CONVERT}"),
    (b"\xff\xd8", "the first bytes of a JPEG and no more"),
    (b"SIMPLE  =", f"FITS, {_CONVERT}"),
    (b"v/1\x01", f"OpenEXR, {_CONVERT}"),
    (b"#?RADIANCE", f"Radiance HDR, {_CONVERT}"),
    (b"\x00\x00\x01\x00", f"an icon (ICO), {_CONVERT}"),
    (b"\x00\x00\x02\x00", f"a cursor (CUR), {_CONVERT}"),
    (b"P7\n", f"PAM, {_CONVERT}"),
    (b"gimp xcf", f"a GIMP file, {_CONVERT}"),
    (b"DDS ", f"a DirectDraw texture, {_CONVERT}"),
    (b"\x89HDF", "HDF5 and no picture; write its arrays as PNG files"),
    (b"\x93NUMPY", "a numpy array and no picture; write it as a PNG file"),
    (b"PK\x03\x04", "a zip archive and no picture; unpack it"),
    (b"\x1f\x8b", "compressed with gzip; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive and no picture; unpack it"),
    (b"PAR1", "a Parquet file and no picture"),
)
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def find_format(data: bytes) -> Format:
    """Return the format that bytes begin as.

    Raises:
        BadImage: If it is none that is read; the message says what is there.
    """
    for kind in FORMATS:
        if kind.accepts(data):
            return kind
    words = next((words for magic, words in _OTHERS if data.startswith(magic)), None)
    raise BadImage(words or _name_other(data) or _not_known(data))


def _name_other(data: bytes) -> str | None:
    head = data[:1024].lstrip(b"\xef\xbb\xbf\r\n\t \0")
    lower = head.lower()
    if not data.strip(b"\0"):
        return "nothing but bytes of 0"
    if any(brand in _brands(data) for brand in _HEIF):
        return "HEIC (HEIF) is not read; convert it to JPEG or PNG, with pillow-heif or heif-convert"
    if _brands(data):
        return f"a video or other ISO media file ({_brands(data)[:4].decode('latin-1').strip()}), not a picture that is read"
    if data[128:132] == b"DICM":
        return f"DICOM, {_CONVERT}"
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page and not a picture; a download failed"
    if lower.startswith(b"<svg") or (lower.startswith(b"<?xml") and b"<svg" in lower):
        return f"SVG, {_CONVERT}"
    if lower.startswith(b"<"):
        return "XML and not a picture; a download may have failed"
    for kind in FORMATS[:3]:
        for at in range(1, min(512, len(data))):
            if kind.accepts(data[at : at + 16]):
                return f"a {kind.name} with {at} bytes before its start; cut them off"
    return None


def _not_known(data: bytes) -> str:
    start = data[:24]
    if re.fullmatch(rb"[\t\r\n -~]+", start):
        return f"not an image of a known format: text that begins {start.decode('ascii')!r}"
    return f"not an image of a known format: it begins with the bytes {data[:8].hex(' ')}"
