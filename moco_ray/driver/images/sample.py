"""A look at some of the images before a run."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moco_ray.config import Config
from moco_ray.core.hashing import hash64
from moco_ray.data.blocks import Source
from moco_ray.data.decode import BadImage
from moco_ray.data.known_bad import bad_lines, too_many_bad
from moco_ray.data.reading import decode, read_rows
from moco_ray.data.views import make_view
from moco_ray.evaluate.features import FLAT

log = logging.getLogger(__name__)
_SAMPLE = 512
_TIMED = 16
_MANY = 0.5
_MUCH_LARGER = 4.0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What some of the images are like."""

    median_px: float
    """Median of their shorter sides."""
    seconds_an_image: float
    """Time to decode one and to make its two views, on one core."""


def look_at_sample(config: Config, source: Source) -> Sample:
    """Read and decode a seeded sample of the images, and say what it holds.

    Raises:
        ValueError: More of them are bad than the run would accept.
    """
    num_images = len(source.manifest)
    rows = np.sort(np.argsort(hash64(config.run.seed, np.arange(num_images)))[:_SAMPLE]).astype(np.int64)
    sides, bad, flat, seen = [], [], 0, Counter[bytes]()
    seconds, timed = 0.0, 0
    for row, content in zip(rows, read_rows(source.manifest, rows, source.options), strict=True):
        if isinstance(content, bytes):
            seen[hashlib.sha256(content).digest()] += 1
        start = time.monotonic()
        try:
            image = decode(content, max_pixels=config.data.max_pixels)
        except BadImage as reason:
            bad.append((source.manifest.uri(int(row)), str(reason)))
            continue
        sides.append(image.shape[:2])
        flat += _is_flat(image)
        if timed < _TIMED:
            for view in (0, 1):
                make_view(image, config.views, seed=config.run.seed, position=timed, view=view)
            seconds, timed = seconds + time.monotonic() - start, timed + 1
    identical = sum(count - 1 for count in seen.values())
    log.info(f"sample of {len(rows)}: {len(bad)} bad, {identical} identical to another, {flat} of nearly one colour")
    for line in bad_lines(bad):
        log.info(line)
    _check_bad(bad, len(rows), num_images, config.data.max_bad_fraction)
    _warn(config, len(rows), identical, flat)
    return Sample(median_px=_say_sides(config, np.min(sides, axis=1)), seconds_an_image=seconds / max(timed, 1))


def _is_flat(image: NDArray[np.uint8]) -> bool:
    return int(np.ptp(image.reshape(-1, 3), axis=0).max()) < FLAT


def _check_bad(bad: Sequence[tuple[str, str]], sampled: int, num_images: int, limit: float) -> None:
    """Refuse a sample with so many bad images that the run would end because of them.

    Raises:
        ValueError: There are more in it than the run accepts in all, or by three standard deviations in its share, or no
            others.
    """
    share = len(bad) / sampled
    if (
        len(bad) == sampled
        or len(bad) > limit * num_images
        or share - 3 * math.sqrt(share * (1 - share) / sampled) > limit
    ):
        told = too_many_bad(bad, sampled, limit, advice="mend or remove them")
        raise ValueError(f"of a sample of {sampled:,} of {num_images:,}, {told}" if sampled < num_images else told)
    if share > limit:
        log.warning(
            f"about {100 * share:.1f} % of the images may be bad; the run ends above data.max-bad-fraction {limit:g}"
        )


def _warn(config: Config, num_sampled: int, identical: int, flat: int) -> None:
    if flat > _MANY * num_sampled:
        log.warning(
            f"{flat} of {num_sampled} sampled images have hardly any contrast: of nearly one colour, they hold "
            "nothing to learn from. Is what they show in the alpha channel, or in the lowest bits of their range?"
        )
    elif identical > _MANY * num_sampled:
        log.warning(
            f"{identical} of {num_sampled} sampled images are identical to another: the network must tell identical "
            "images apart and learns what they do not differ in; remove the copies"
        )


def _say_sides(config: Config, shorter: NDArray[np.int64]) -> float:
    low, middle, high = np.percentile(shorter, [5, 50, 95])
    crop = config.views.crop_px
    log.info(f"shorter side: {low:.0f} to {high:.0f} pixels, median {middle:.0f}; views have {crop}")
    if crop > _MUCH_LARGER * middle:
        log.warning(
            f"views of {crop} pixels from images of {middle:.0f} are enlarged {crop / middle:.0f} times: that costs "
            f"time and shows nothing new; use --views.crop-px {max(32, int(middle) // 32 * 32)}"
        )
    return float(middle)
