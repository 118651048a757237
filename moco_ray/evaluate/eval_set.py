"""Which images a run is evaluated on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from moco_ray.config import Config
from moco_ray.config.eval import EvalConfig
from moco_ray.core.hashing import hash64
from moco_ray.data.manifest import Images, Manifest
from moco_ray.evaluate.features import ImageSet
from moco_ray.evaluate.unlike_classes import both_sides, left_out
from moco_ray.storage.storage import StorageOptions

_HOLDOUT, _BANK, _QUERIES = 0x40, 0x41, 0x42  # keep the draws of one seed apart


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """Images to evaluate on. Small: bounded by the configuration, whatever the size of the data set."""

    queries: ImageSet
    """Images to classify, or just to look at."""
    bank: ImageSet | None
    """Labelled images to classify by. None: leave-one-out among the queries."""
    classes: tuple[str, ...]
    """Names of the labels; fewer than two without labels."""
    words: str = ""
    """What is classified by what, for people."""

    @property
    def has_labels(self) -> bool:
        """Whether kNN makes sense: there are classes, and some query has another image of its class to be near to."""
        return len(self.classes) > 1 and bool(self.has_relatives().any())

    def has_relatives(self) -> NDArray[np.bool_]:
        """Of each query (n,), whether its class has another image to classify it by."""
        counts = np.bincount((self.bank or self.queries).labels, minlength=len(self.classes))
        relatives: NDArray[np.bool_] = counts[self.queries.labels] > (self.bank is None)
        return relatives


def holdout_mask(
    labels: NDArray[np.integer],
    config: EvalConfig,
    seed: int,
    *,
    kept: NDArray[np.bool_] | None = None,
    among: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Choose labelled images for evaluation only: a seeded share, none where they would be of no use.

    Args:
        labels: (n,) labels, -1 without one.
        config: Size of the hold-out.
        seed: Of the choice.
        kept: (n,) images that are chosen already, and count; None: none.
        among: (n,) images that may be chosen beside them; None: all.
    """
    mask = np.zeros(len(labels), dtype=bool) if kept is None else kept.copy()
    labelled = np.flatnonzero(labels >= 0)
    sizes = np.unique(labels[labelled], return_counts=True)[1]
    if config.uri or len(sizes) < 2 or sizes.max() < 2:
        return mask
    count = max(0, min(int(config.holdout_fraction * len(labelled)), config.max_queries) - int(mask.sum()))
    pool = labelled[~mask[labelled] & (True if among is None else among[labelled])]
    mask[pool[_draw(len(pool), count, seed, _HOLDOUT)]] = True
    return mask


def labels_to_draw_by(manifest: Manifest) -> NDArray[np.integer]:
    """Labels (n,) for holdout_mask; where images have boxes or several labels, any of them may be held out."""
    return np.arange(len(manifest)) % 2 if manifest.has_targets else manifest.labels


def choose_eval_set(
    train: Manifest,
    held_out: Manifest | None,
    config: EvalConfig,
    seed: int,
    train_options: StorageOptions,
    eval_options: StorageOptions,
    max_pixels: int,
) -> EvalSet:
    """Choose the images to evaluate on.

    The queries are those to classify, or the hold-out, or (without labels) a sample of the training images. The bank is
    the training images of the classes that both have, if these are two or more, and the queries are those of these classes;
    else each query is classified by the other queries.

    Args:
        train: The training data, hold-out included.
        held_out: The images to classify, if they are not among the training data.
        config: Sizes.
        seed: Of the samples.
        train_options: Access to the training images.
        eval_options: Access to those to classify.
        max_pixels: Images with more pixels are left out.
    """
    train_rows = train.train_rows()
    labelled = train_rows[train.labels[train_rows] >= 0]
    is_query = np.ones(len(train), dtype=bool)
    is_query[train_rows] = False
    if held_out is None and not is_query.any():
        queries = _sample(train, train_rows, config.max_queries, seed, _QUERIES, train_options, max_pixels)
        return EvalSet(
            queries=queries, bank=None, classes=(), words="no kNN: no labelled images are kept from training"
        )
    images, options = (held_out, eval_options) if held_out is not None else (train, train_options)
    rows = np.flatnonzero(images.labels >= 0) if held_out is not None else np.flatnonzero(is_query)
    if held_out is None:
        common = train.classes if len(labelled) else ()
    else:
        both = set(_present(train, labelled)) & set(_present(images, rows))
        common = tuple(name for name in images.classes if name in both)
    if len(common) < 2:
        queries = _sample(images, rows, config.max_queries, seed, _QUERIES, options, max_pixels)
        words = (
            f"kNN: each of {len(rows):,} images to classify by the others: fewer than two of their classes are among the "
            f"labelled training images{both_sides(train, images) if held_out is not None else ''}"
        )
        return EvalSet(queries=queries, bank=None, classes=images.classes, words=words)
    rows, labelled = (
        part[np.isin(whole.labels[part], _ids(whole, common))] for whole, part in ((images, rows), (train, labelled))
    )
    queries = _sample(images, rows, config.max_queries, seed, _QUERIES, options, max_pixels)
    bank = _sample(train, labelled, config.max_bank, seed, _BANK, train_options, max_pixels)
    # The same names may be numbered otherwise: 2 comes before 10 as a number, after it as a folder.
    queries, bank = _numbered(queries, images, common), _numbered(bank, train, common)
    words = (
        f"kNN: {len(queries):,} images are classified by {len(bank):,} training images of the {len(common):,} classes"
    )
    return EvalSet(queries=queries, bank=bank, classes=common, words=words + left_out(train, images, common))


def labelled_eval_set(
    config: Config, images: Images, train_options: StorageOptions, test_options: StorageOptions
) -> EvalSet:
    """The labelled images on which what learns from labels is measured: those to classify, or the hold-out.

    Args:
        config: How many, and the seed of the sample where there are more.
        images: Of the run; those to classify have numbers of the classes of those to train on.
        train_options: Access to the training images.
        test_options: Access to those to classify.

    Raises:
        ValueError: There are none.
    """
    train, test = images.train, images.test
    chosen, options = (train, train_options) if test is None else (test, test_options)
    rows = train.other_rows(train.train_rows()) if test is None else np.arange(len(test))
    if not len(rows):
        raise ValueError(
            "there is nothing to measure on: name images to classify with --eval.uri, put them into a val or test folder of "
            "data.uri, or hold some out with --eval.holdout-fraction 0.1"
        )
    most, max_pixels = config.eval.max_queries, config.data.max_pixels
    queries = _sample(chosen, rows, most, config.run.seed, _QUERIES, options, max_pixels)
    which = "images held out from training" if test is None else "images to classify"
    words = f"accuracy: on {len(queries):,} {which}"
    return EvalSet(queries=queries, bank=None, classes=train.target_names or train.classes, words=words)


def _present(manifest: Manifest, rows: NDArray[np.int64]) -> list[str]:
    """Classes that some rows have."""
    return [manifest.classes[label] for label in np.unique(manifest.labels[rows]) if label >= 0]


def _ids(manifest: Manifest, classes: tuple[str, ...]) -> list[int]:
    return [i for i, name in enumerate(manifest.classes) if name in set(classes)]


def _numbered(images: ImageSet, manifest: Manifest, classes: tuple[str, ...]) -> ImageSet:
    """The same images with the numbers that their classes have in `classes`, which holds all of them."""
    number = {name: i for i, name in enumerate(classes)}
    table = np.array([number.get(name, -1) for name in manifest.classes], dtype=np.int64)
    return replace(images, labels=table[images.labels])


def _sample(
    manifest: Manifest,
    rows: NDArray[np.int64],
    at_most: int,
    seed: int,
    key: int,
    options: StorageOptions,
    max_pixels: int,
) -> ImageSet:
    chosen = np.sort(rows[_draw(len(rows), min(at_most, len(rows)), seed, key)])
    small = replace(manifest, table=manifest.table.take(chosen), known_as=None, former_digests=())
    labels = manifest.labels[chosen]
    return ImageSet(manifest=small, rows=np.arange(len(chosen)), labels=labels, options=options, max_pixels=max_pixels)


def _draw(n: int, count: int, seed: int, key: int) -> NDArray[np.int64]:
    return np.argsort(hash64(seed, key, np.arange(n)), kind="stable")[:count].astype(np.int64)
