"""Real photos: those that packages ship, whole or cut into small images, and those of a folder or an archive."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

_SKIMAGE = "astronaut.png brick.png chelsea.png coffee.png coins.png grass.png gravel.png hubble_deep_field.jpg ihc.png"
_SKIMAGE += " motorcycle_left.png retina.jpg rocket.jpg"
_SKLEARN = "china.jpg flower.jpg"
_SIDE_PX = 40
_PATCHES = {"train": 24, "test": 12}  # of each cell


def write_patches(folder: Path) -> Path:
    """Write train/<photo>/… and test/<photo>/…: grey patches of 40 pixels from disjoint cells of 14 photos.

    Grey, because the colours alone would tell most photos apart. A quarter of the cells, spread over each photo,
    is for testing; patches lie inside one cell, so no pixel is in both.
    """
    generator = np.random.default_rng(0)
    for path in _all_paths():
        photo = Image.open(path).convert("L").convert("RGB")
        photo.thumbnail((420, 420))
        pixels = np.asarray(photo)
        for number, (top, left) in enumerate(_cells(*pixels.shape[:2])):
            split = "test" if number % 4 == 0 else "train"
            target = folder / split / path.stem
            target.mkdir(parents=True, exist_ok=True)
            for patch in range(_PATCHES[split]):
                y, x = np.array([top, left]) + generator.integers(0, _SIDE_PX + 1, 2)
                name = f"{number:03d}_{patch:02d}.png"
                Image.fromarray(pixels[y : y + _SIDE_PX, x : x + _SIDE_PX]).save(target / name)
    return folder


def jpegs_of(place: Path) -> list[bytes]:
    """Return the JPEG files of a folder, of those below it, or of a tar archive, in the order of their names."""
    if place.is_dir():
        return [path.read_bytes() for path in sorted(place.rglob("*")) if _is_jpeg(path.name)]
    with tarfile.open(place) as archive:
        files = ((member.name, archive.extractfile(member)) for member in archive if _is_jpeg(member.name))
        return [content for _, content in sorted((name, file.read()) for name, file in files if file is not None)]


def shipped_photos(width_px: int) -> list[bytes]:
    """Return the photos that packages ship as JPEGs of at most `width_px` on each side."""
    photos = []
    for path in _all_paths():
        photo = Image.open(path).convert("RGB")
        photo.thumbnail((width_px, width_px))
        photos.append(_jpeg(photo))
    return photos


def shipped_small(side_px: int) -> list[bytes]:
    """Return squares of the photos that packages ship, shrunk to JPEGs of `side_px` on each side."""
    squares = []
    for path in _all_paths():
        photo = Image.open(path).convert("RGB")
        photo.thumbnail((420, 420))
        for top, left in _cells(photo.height, photo.width):
            square = photo.crop((left, top, left + 2 * _SIDE_PX, top + 2 * _SIDE_PX))
            squares.append(_jpeg(square.resize((side_px, side_px), Image.Resampling.BILINEAR)))
    return squares


def spread(images: Sequence[bytes], number: int) -> list[bytes]:
    """Return `number` of the images from all over the sequence, or all where they are fewer."""
    places = np.linspace(0, len(images) - 1, min(number, len(images))).round().astype(int)
    return [images[i] for i in places]


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _is_jpeg(name: str) -> bool:
    return name.lower().endswith((".jpg", ".jpeg"))


def _cells(height: int, width: int) -> list[tuple[int, int]]:
    """Top left corners of cells of two patches' side."""
    step = 2 * _SIDE_PX
    return [(y, x) for y in range(0, height - step + 1, step) for x in range(0, width - step + 1, step)]


def _all_paths() -> list[Path]:
    return [*_paths("skimage", "data", _SKIMAGE), *_paths("sklearn", "datasets/images", _SKLEARN)]


def _paths(package: str, folder: str, names: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    return [Path(spec.origin).parent / folder / name for name in names.split()]
