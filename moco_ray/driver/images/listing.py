"""The images of a run as they are found: those to train on in their order, and those to classify."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa

from moco_ray.config import Config
from moco_ray.data.blocks import Source
from moco_ray.data.folders import same_place
from moco_ray.data.known_bad import say_known_bad
from moco_ray.data.labels import amount, count_words
from moco_ray.data.listed import Listed
from moco_ray.data.manifest import Images, Manifest
from moco_ray.data.order import make_order
from moco_ray.data.overlap import check_left, is_shared_row
from moco_ray.data.select import keep_fraction
from moco_ray.data.sources import list_source
from moco_ray.driver.images.boxed import list_boxed_images
from moco_ray.driver.images.used import used_images, with_same_classes
from moco_ray.evaluate.eval_set import EvalSet, holdout_mask, labels_to_draw_by
from moco_ray.storage.storage import StorageOptions, resolve_storage_options
from moco_ray.tasks.task import Task

log = logging.getLogger(__name__)

_BATCHES_LOOKED_AT = 20
_LEAST_MIXED = 0.9
_MANY_FILES = 10_000_000


def list_images(config: Config, *, holds_out: bool = True) -> Images:
    """List the images to train on and those to classify, and say what there is.

    Without other images to classify, some of the labelled ones are held out from training. Results of runs and the images
    of eval.uri are not trained on where they lie below data.uri.

    Args:
        config: Names them.
        holds_out: Whether to choose images to hold out; a run that exists has chosen its own.

    Raises:
        ValueError: There are none, too many are known to be bad, those of eval.uri have no labels, or they are
            (nearly) all of those of data.uri.
    """
    if config.task == "detection":
        boxed = list_boxed_images(config, holds_out=holds_out)
        return boxed if boxed.test is None else replace(boxed, train=_without(boxed.train, boxed.test, config))
    data, evaluation = config.data, config.eval
    if evaluation.uri and same_place(evaluation.uri, data.uri):
        raise ValueError(
            f"eval.uri is data.uri, {data.uri}: training would see what is classified; name other images, or drop eval.uri "
            "and a share of the labelled ones is held out (eval.holdout-fraction)"
        )
    log.info(f"listing {data.uri}")
    apart = (config.run.storage_path, evaluation.uri)
    options = resolve_storage_options(data.uri, data.storage_options)
    listed = list_source(data, options, leave_out=apart, chooses_test=not evaluation.uri)
    train, test = used_images(config, listed.train, listed.test, f"data.uri {data.uri}")
    found, train = train, _apart(train, config, holds_out=holds_out, has_test=test is not None)
    _say_what_there_is(found, train, config, listed)
    say_known_bad(train, data.max_bad_fraction)
    if test is not None:
        say_known_bad(test, None)
    if evaluation.uri:
        test = list_eval_images(config)
        train = _without(train, test, config)
    if config.needs_labels:
        test = None if test is None else with_same_classes(train, test, evaluation.uri or data.uri)
    return Images(train=train, test=test)


def _apart(train: Manifest, config: Config, *, holds_out: bool, has_test: bool) -> Manifest:
    """The images with some held out where none are there to classify, and of the others the share to train on."""
    data, seed, draws = config.data, config.run.seed, config.needs_labels and config.data.label_fraction < 1
    if (holds_out or draws) and not has_test and not config.eval.uri:
        train = train.with_holdout(holdout_mask(labels_to_draw_by(train), config.eval, seed))
    if draws:
        train = keep_fraction(train, data.label_fraction, seed)
    return train if holds_out or not draws else train.with_holdout(np.zeros(len(train), dtype=bool))


def _say_what_there_is(found: Manifest, train: Manifest, config: Config, listed: Listed) -> None:
    """Say how many images there are, and what is held out of those that were found."""
    num_held_out = len(train) - len(train.train_rows())
    purpose = "evaluation" if config.needs_labels else "kNN"
    held_out = f", {num_held_out:,} of them held out for {purpose}" if num_held_out else ""
    log.info(f"{len(found):,} images{held_out}; {listed.words}")
    for note in listed.notes:
        log.info(note)
    if len(train) < len(found):
        share, left = config.data.label_fraction, len(train) - num_held_out
        log.info(f"data.label-fraction {share:g}: {left:,} of the {len(found) - num_held_out:,} others are trained on")
    if len(train) > _MANY_FILES and train.image_column is None:
        log.warning(
            f"{len(train):,} single files take long to list and a request each to read; pack them into Parquet files "
            "with a column of image bytes"
        )
    if num_held_out:
        num_labelled = len(found) if found.has_targets else int((found.labels >= 0).sum())
        log.info(
            f"{num_held_out:,} of {num_labelled:,} labelled images are held out for {purpose} and never trained on; "
            "--eval.holdout-fraction 0 trains on all, or name a test set with --eval.uri"
        )


def _without(train: Manifest, test: Manifest, config: Config) -> Manifest:
    """The training images but for those that are classified."""
    shared = is_shared_row(train, test)
    if not shared.any():
        return train
    named, others = f"data.uri {config.data.uri}", f"eval.uri {config.eval.uri or config.data.uri}"
    left = replace(train, table=train.table.filter(pa.array(~shared)))
    check_left(len(left), len(train), named, others)
    log.warning(
        f"{amount(int(shared.sum()), 'image')} of {named} {'is' if shared.sum() == 1 else 'are'} in {others}, too "
        f"(first {train.uri(int(shared.argmax()))}): not trained on; {len(left):,} images are left"
    )
    return left


def list_eval_images(config: Config) -> Manifest:
    """List the images of eval.uri; of its val or test part, if it has parts.

    Raises:
        ValueError: There are none, or they have no labels.
    """
    uri = config.eval.uri
    if config.task == "detection":
        test = list_boxed_images(config, holds_out=False).test
        assert test is not None
        return test
    log.info(f"listing {uri}")
    options = resolve_storage_options(uri, config.data.storage_options)
    listed = list_source(replace(config.data, uri=uri), options, leave_out=(config.run.storage_path,))
    manifest, _ = used_images(config, listed.test or listed.train, None, f"eval.uri {uri}")
    if len(manifest.classes) < 2 and not manifest.has_targets:
        raise ValueError(
            f"eval.uri {uri} has no labels of two classes; use a folder with one sub-folder for each class ({listed.words})"
        )
    if listed.test is not None:
        log.info(f"{len(manifest):,} images of the val or test part; {count_words(manifest.classes, manifest.labels)}")
    else:
        log.info(f"{len(manifest):,} images; {listed.words}")
    say_known_bad(manifest, None)
    return manifest


def make_source(config: Config, manifest: Manifest) -> Source:
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
    return Source(manifest=manifest, train_rows=np.asarray(rows), order=order, options=row_options(manifest, config))


def warn_of_mixing(source: Source, global_batch_size: int) -> None:
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
        log.warning(
            f"a batch holds images of about {found:.0f} classes; if all rows were shuffled, of {shuffled:.0f}. The "
            f"Parquet files are sorted by class, and about {max(source.order.window, global_batch_size):,} rows are mixed "
            "at a time: write the rows in random order, or mix more of them with a larger data.window-mb, which takes memory"
        )


def last_step(config: Config, num_rows: int) -> int:
    """Steps that the run does."""
    steps = config.optim.num_steps(num_rows)
    return steps if config.run.max_steps is None else min(steps, config.run.max_steps)


def row_options(manifest: Manifest, config: Config) -> StorageOptions:
    """Access to the images themselves, which need not be where the manifest was."""
    return resolve_storage_options(manifest.first_uri, config.data.storage_options)


def run_eval_set(task: Task, config: Config, images: Images) -> EvalSet:
    """The images that a run is evaluated on and illustrated with."""
    options = row_options(images.train, config)
    return task.eval_set(config, images, options, row_options(images.test, config) if images.test else options)
