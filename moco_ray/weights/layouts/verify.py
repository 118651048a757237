"""Whether a file gives other programs the features that its encoder gives here."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from moco_ray.weights.layouts.layout import Layout, Source

log = logging.getLogger(__name__)
TOLERANCE = 1e-4
"""Of a feature, as a share of the largest one: the order of floating-point sums may be another."""
_NUM_IMAGES = 4
_LIMIT_S = 900
_PROGRAM = """
import json, sys
sys.modules["moco_ray"] = None  # whoever loads the file has no moco_ray
import numpy
given = json.loads(sys.argv[1])
images = numpy.load("images.npy")

def done(features, by):
    numpy.save("features.npy", features)
    with open("by.txt", "w") as file:
        file.write(by)

"""


class NotTheSame(RuntimeError):
    """A file does not give the features that it should."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What the comparison has shown."""

    max_abs_difference: float
    """Between a feature here and there."""
    largest: float
    """Largest absolute value of a feature."""
    num_images: int
    """Images of the probe."""
    by: str
    """Who has loaded the file."""


def verify(layout: Layout, source: Source, files: Mapping[str, bytes], suffix: str) -> Verified:
    """Load files in a process without moco_ray, with the library that they are for, and compare features.

    Args:
        layout: Of the files.
        source: The encoder that they were written from.
        files: What `layout.write` returns.
        suffix: What it was given.

    Raises:
        NotTheSame: They cannot be loaded, or give other features.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_NUM_IMAGES, 3, source.crop_px, source.crop_px, generator=generator)
    with torch.inference_mode():
        ours = source.backbone(images).double().numpy()  # (N, d)
    with tempfile.TemporaryDirectory(prefix="moco_ray_") as name:
        folder = Path(name)
        np.save(folder / "images.npy", images.numpy())
        place = folder / "files" if "" not in files else folder / f"file{suffix}"
        for file, content in files.items():
            target = place / file if file else place
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        _run(layout, folder, json.dumps({**layout.given(source), "path": str(place)}))
        theirs, by = np.load(folder / "features.npy").astype(np.float64), (folder / "by.txt").read_text()
    if theirs.shape != ours.shape:
        raise NotTheSame(f"{layout.name}: features are {theirs.shape} by {by}, and not {ours.shape}")
    difference, largest = float(np.abs(theirs - ours).max()), float(np.abs(ours).max())
    if not difference <= TOLERANCE * largest:  # also where one is not a number
        raise NotTheSame(
            f"{layout.name}: features by {by} differ from the encoder's by up to {difference:.3g}, where the largest is "
            f"{largest:.3g} and {TOLERANCE * largest:.1g} is allowed; nothing was written"
        )
    if float(np.ptp(ours, axis=0).max()) <= TOLERANCE * largest:
        log.warning(
            f"the encoder gives {_NUM_IMAGES} images of noise the same features, as one that has collapsed does: that the file "
            "gives them, too, shows little"
        )
    return Verified(max_abs_difference=difference, largest=largest, num_images=_NUM_IMAGES, by=by)


def _run(layout: Layout, folder: Path, given: str) -> None:
    command = [sys.executable, "-I", "-c", _PROGRAM + layout.program, given]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise NotTheSame(f"{layout.name}: loading the file took more than {_LIMIT_S} s; nothing was written") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise NotTheSame(f"{layout.name}: the file cannot be loaded ({last}); nothing was written")
