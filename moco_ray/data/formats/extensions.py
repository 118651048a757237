"""The formats that are read and what their files are called; a file's bytes alone decide how it is read."""

from __future__ import annotations

EXTENSIONS_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WebP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "JPEG 2000": (".jp2", ".j2k", ".jpc", ".j2c", ".jpx", ".jpf"),
    "AVIF": (".avif",),
    "PNM": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
    "TGA": (".tga",),
}
IMAGE_EXTENSIONS = frozenset(extension for extensions in EXTENSIONS_OF.values() for extension in extensions)
