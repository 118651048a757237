"""Real photos that packages ship, cut into thousands of small images whose class is the photo they come from."""

from __future__ import annotations

import importlib.util
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
    for path in [*_paths("skimage", "data", _SKIMAGE), *_paths("sklearn", "datasets/images", _SKLEARN)]:
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


def _cells(height: int, width: int) -> list[tuple[int, int]]:
    """Top left corners of cells of two patches' side."""
    step = 2 * _SIDE_PX
    return [(y, x) for y in range(0, height - step + 1, step) for x in range(0, width - step + 1, step)]


def _paths(package: str, folder: str, names: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    return [Path(spec.origin).parent / folder / name for name in names.split()]
