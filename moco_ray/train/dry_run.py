"""Look before training: what a run would be, and what is wrong with its images."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from moco_ray.config import Config
from moco_ray.core.hashing import hash64
from moco_ray.data.decode import BadImage
from moco_ray.data.known_bad import bad_lines, too_many_bad
from moco_ray.data.manifest import Manifest
from moco_ray.data.reading import decode, read_rows
from moco_ray.data.storage import StorageOptions, resolve_storage_options
from moco_ray.train.network import check_network, initial_weights
from moco_ray.train.plan import (
    decide,
    last_step,
    list_images,
    make_source,
    row_options,
    run_eval_set,
    warn,
    warn_of_mixing,
)

_SAMPLE = 512


def dry_run(config: Config, *, say: Callable[[str], None] = print) -> None:
    """List the images, decode a sample, and say what a run would be.

    Raises:
        ValueError: There are no images to train on, or the run would refuse them.
    """
    if not config.data.uri:
        raise ValueError("data.uri is missing; name a folder of images, a manifest or Parquet files: --data.uri URI")
    encoder = check_network(config)
    initial_weights(config, encoder, say)
    options = resolve_storage_options(config.data.uri, config.data.storage_options)
    images = list_images(config, options, say)
    manifest = images.train
    known = manifest.table["num_bytes"].to_numpy()
    if (known >= 0).all():
        say(f"size: {known.sum() / 1e6:,.1f} MB")
    options = row_options(manifest, config)
    pixels = _say_sample(config, manifest, options, say)
    source = make_source(config, manifest, options)
    num_rows = len(source.train_rows)
    say(run_eval_set(config, images).words)
    config = decide(config, num_rows)
    warn(config, num_rows, say)
    warn_of_mixing(source, config.optim.global_batch_size, say)
    optim, steps = config.optim, last_step(config, num_rows)
    say(
        f"run: {num_rows:,} images, {optim.epochs} epochs of {num_rows / optim.global_batch_size:,.1f} steps; "
        f"{steps:,} steps of {optim.global_batch_size} images, effective learning rate {optim.effective_lr:g}"
    )
    parameters = sum(p.numel() for p in encoder.parameters())
    entries = config.method.num_entries(num_rows) * config.model.dim
    say(
        f"checkpoint: about {(3 * parameters + entries) * 4 / 1e6:,.0f} MB ({parameters / 1e6:.1f} million parameters, as "
        f"much again for a key encoder and for the optimizer, and {entries / 1e6:.1f} million numbers of kept keys)"
    )
    say(f"suggested preset: {suggest_preset(len(manifest), pixels)}")


def suggest_preset(num_images: int, median_px: float) -> str:
    """The preset that fits so many images of such a shorter side, in pixels."""
    if median_px <= 40 and num_images >= 10_000:
        return "cifar10"
    return "small" if num_images < 100_000 else "moco-v2"


def _say_sample(config: Config, manifest: Manifest, options: StorageOptions, say: Callable[[str], None]) -> float:
    """Decode a seeded sample and say what it holds; returns the median shorter side in pixels."""
    order = np.argsort(hash64(config.run.seed, np.arange(len(manifest))))
    rows = np.sort(order[:_SAMPLE]).astype(np.int64)
    sides, bad, seen = [], [], Counter[bytes]()
    for row, content in zip(rows, read_rows(manifest, rows, options), strict=True):
        if isinstance(content, bytes):
            seen[hashlib.sha256(content).digest()] += 1
        try:
            image = decode(content, max_pixels=config.data.max_pixels)
        except BadImage as reason:
            bad.append((manifest.uri(int(row)), str(reason)))
        else:
            sides.append(image.shape[:2])
    identical = sum(count - 1 for count in seen.values())
    say(f"sample of {len(rows)}: {len(bad)} bad, {identical} identical to another")
    for line in bad_lines(bad):
        say(line)
    _check_bad(bad, len(rows), len(manifest), config.data.max_bad_fraction, say)
    shorter = np.min(sides, axis=1)
    low, middle, high = np.percentile(shorter, [5, 50, 95])
    say(f"shorter side: {low:.0f} to {high:.0f} pixels, median {middle:.0f}; views have {config.views.crop_px}")
    return float(middle)


def _check_bad(
    bad: Sequence[tuple[str, str]], sampled: int, num_images: int, limit: float, say: Callable[[str], None]
) -> None:
    """Refuse a sample with so many bad images that the run would end because of them.

    Raises:
        ValueError: There are more in it than the run accepts in all, or by three standard deviations in its share.
    """
    share = len(bad) / sampled
    if len(bad) > limit * num_images or share - 3 * math.sqrt(share * (1 - share) / sampled) > limit:
        told = too_many_bad(bad, sampled, limit, advice="mend or remove them")
        raise ValueError(f"of a sample of {sampled:,} of {num_images:,}, {told}" if sampled < num_images else told)
    if share > limit:
        say(
            f"warning: about {100 * share:.1f} % of the images may be bad; the run ends above data.max-bad-fraction {limit:g}"
        )
