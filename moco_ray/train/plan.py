"""What a run will be: its images, and every automatic value decided from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from moco_ray.config import Config
from moco_ray.core.encoders import build_encoder
from moco_ray.core.group_batch_norm import has_batch_norm
from moco_ray.data.blocks import Source
from moco_ray.data.manifest import Manifest
from moco_ray.data.order import make_order
from moco_ray.data.sources import build_manifest
from moco_ray.data.storage import StorageOptions, resolve_storage_options
from moco_ray.evaluate.monitor import holdout_mask

_EVALUATIONS_A_RUN = 20
_BATCHES_LOOKED_AT = 20
_LEAST_MIXED = 0.9

Say = Callable[[str], None]


def list_images(config: Config, options: StorageOptions, say: Say) -> Manifest:
    """List the images and set some of the labelled ones aside for kNN.

    Raises:
        ValueError: There are none.
    """
    say(f"listing {config.data.uri}")
    manifest = build_manifest(config.data, options, say)
    manifest = manifest.with_holdout(holdout_mask(manifest.labels, config.eval, config.run.seed))
    num_train = len(manifest.train_rows())
    held_out = f", {len(manifest) - num_train:,} of them held out for kNN" if num_train < len(manifest) else ""
    say(f"{len(manifest):,} images{held_out}; {len(manifest.classes) or 'no'} classes")
    return manifest


def make_source(config: Config, manifest: Manifest, options: StorageOptions) -> Source:
    """The training images in their order.

    Raises:
        ValueError: They do not fill one batch.
    """
    rows = manifest.train_rows()
    if len(rows) < config.optim.global_batch_size:
        raise ValueError(
            f"{config.data.uri} has {len(rows)} images to train on, fewer than one batch of "
            f"{config.optim.global_batch_size}; use a smaller optim.global-batch-size"
        )
    order = make_order(manifest, seed=config.run.seed, global_batch_size=config.optim.global_batch_size)
    return Source(manifest=manifest, train_rows=np.asarray(rows), order=order, options=options)


def decide(config: Config, num_rows: int) -> Config:
    """Replace what is automatic by what it comes to for this data and network.

    Raises:
        ValueError: What was asked for contradicts one of them, or there is no such network.
    """
    with torch.device("meta"):  # layers without weights: it costs milliseconds and draws nothing
        network = build_encoder(config.model, config.views.crop_px)
    size = config.optim.global_batch_size
    method = config.method.decide(num_images=num_rows, global_batch_size=size, has_batch_norm=has_batch_norm(network))
    every = config.eval.every_steps
    if every is None:
        steps = config.optim.num_steps(num_rows)
        every = max(1, math.ceil(num_rows / size), math.ceil(steps / _EVALUATIONS_A_RUN))
    return replace(
        config,
        method=method,
        eval=replace(config.eval, every_steps=every),
    )


def warn(config: Config, num_rows: int, say: Say) -> None:
    """Say what a user should know before training with this method and schedule on so many images."""
    optim = config.optim
    if (warning := config.method.warning(num_rows, optim.global_batch_size)) is not None:
        say(f"warning: {warning}")
    if config.method.shuffles_keys and optim.bn_groups == 1:
        say(
            "warning: with optim.bn-groups 1 a query and its key share BatchNorm statistics, and shuffling changes nothing; "
            "use more groups"
        )
    if optim.warmup_epochs >= optim.epochs:
        say(
            f"warning: optim.warmup-epochs {optim.warmup_epochs:g} of optim.epochs {optim.epochs:g}: the learning rate never "
            "leaves the warm-up; use a shorter one"
        )
    if optim.schedule == "milestones" and all(milestone >= optim.epochs for milestone in optim.milestones):
        say(
            f"warning: optim.milestones {', '.join(map(str, optim.milestones))} lie beyond optim.epochs {optim.epochs:g}: the "
            "learning rate never falls; use earlier ones or --optim.schedule cosine"
        )


def warn_of_mixing(source: Source, global_batch_size: int, say: Say) -> None:
    """Say so if batches of rows of Parquet files hold clearly fewer classes than if all rows were shuffled."""
    labels = source.manifest.labels[source.train_rows]
    if source.order.chunk_starts is None or (labels < 0).any():
        return
    steps = np.linspace(0, max(0, len(labels) // global_batch_size - 1), _BATCHES_LOOKED_AT).astype(np.int64)
    rows = source.order.rows(steps[:, None] * global_batch_size + np.arange(global_batch_size))
    found = float(np.mean([len(np.unique(batch)) for batch in labels[rows]]))
    shares = np.bincount(labels) / len(labels)
    shuffled = float((1 - (1 - shares) ** global_batch_size).sum())
    if found < _LEAST_MIXED * shuffled:
        say(
            f"warning: a batch holds images of about {found:.0f} classes; if all rows were shuffled, of {shuffled:.0f}. The "
            f"Parquet files are sorted by class, and about {max(source.order.window, global_batch_size):,} rows are mixed "
            "at a time: write the rows in random order, or mix more of them with a larger data.window-mb, which takes memory"
        )


def last_step(config: Config, num_rows: int) -> int:
    """Steps that the run does."""
    steps = config.optim.num_steps(num_rows)
    return steps if config.run.max_steps is None else min(steps, config.run.max_steps)


def row_options(manifest: Manifest, config: Config) -> StorageOptions:
    """Access to the images themselves, which need not be where the manifest was."""
    return resolve_storage_options(str(manifest.table["uri"][0].as_py()), config.data.storage_options)
