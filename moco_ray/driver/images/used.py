"""Which of the images that were found a run uses, as its configuration asks, and what is said of the others."""

from __future__ import annotations

import logging

import numpy as np

from moco_ray.config import Config
from moco_ray.data.labels import amount, count_words, quoted
from moco_ray.data.manifest import Manifest
from moco_ray.data.select import keep_classes, keep_labelled, leave_out, read_excluded, renumbered
from moco_ray.storage.storage import resolve_storage_options

log = logging.getLogger(__name__)


def used_images(config: Config, train: Manifest, test: Manifest | None, named: str) -> tuple[Manifest, Manifest | None]:
    """The images of the classes that were asked for, without those of data.exclude, and with labels where these are learned.

    Args:
        config: Asks for them.
        train: Those to train on.
        test: Those to classify.
        named: Where they come from, for messages.

    Raises:
        ValueError: A class is not there, none is left, or they have no labels of two classes where these are learned.
    """
    if config.data.exclude is not None:
        train, test = _without_excluded(config, config.data.exclude, train, test, named)
    if config.data.classes is not None:
        train = keep_classes(train, config.data.classes, named)
        test = keep_classes(test, config.data.classes, named) if test is not None else None
        log.info(f"data.classes: {count_words(train.classes, train.labels)}")
    if config.needs_labels:
        _check_labels(train, named)
        train, without = keep_labelled(train)
        if without:
            log.info(f"{named}: {without}")
        test = keep_labelled(test)[0] if test is not None else None
    return train, test


def with_same_classes(train: Manifest, test: Manifest, named: str) -> Manifest:
    """The images to classify, with the numbers that their classes have among those that are trained on.

    Raises:
        ValueError: There are classes that nothing can be trained to tell, or other labels.
    """
    if train.target_names != test.target_names:
        raise ValueError(
            f"the images to classify have the labels {quoted(test.target_names)}, those to train on {quoted(train.target_names)}; "
            "use lists with the same columns"
        )
    labels = np.unique(train.labels[train.train_rows()])
    known = {train.classes[label] for label in labels if label >= 0}
    present = [test.classes[label] for label in np.unique(test.labels) if label >= 0]
    unknown = [name for name in present if name not in known]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of the {len(present)} classes of the images to classify, {named}, have no image to train on "
            f"({quoted(unknown)}; trained on are {quoted(sorted(known))}); use the same classes, or name those to use with "
            "--data.classes"
        )
    absent = sorted(known - set(present))
    if absent and not test.target_names:
        log.warning(f"{len(absent)} of the classes to train on have no image to classify: {quoted(absent)}")
    return renumbered(test, train.classes) if train.classes else test


def _check_labels(train: Manifest, named: str) -> None:
    if train.has_targets:
        return
    labels = np.unique(train.labels[train.labels >= 0])
    if len(labels) == 0:
        raise ValueError(
            f"{named} has no labels, which are what is learned; use a folder with one sub-folder for each class, a list with "
            "a column of labels (--data.label-column), or several columns (--data.target-columns)"
        )
    if len(labels) == 1:
        raise ValueError(
            f"{named} has one class alone, {quoted([train.classes[labels[0]]])}: there is nothing to tell apart; name images "
            "of two classes or more"
        )


def _without_excluded(
    config: Config, exclude: str, train: Manifest, test: Manifest | None, named: str
) -> tuple[Manifest, Manifest | None]:
    listed = read_excluded(exclude, resolve_storage_options(exclude, config.data.storage_options))
    before, kept = [train] if test is None else [train, test], []
    for manifest in before:
        kept.append(leave_out(manifest, listed, config.data.uri))
        if not len(kept[-1]):
            which = "images to classify" if manifest is test else "images"
            raise ValueError(f"data.exclude {exclude} names all {len(manifest):,} {which} of {named}; name fewer")
    left_out = sum(map(len, before)) - sum(map(len, kept))
    said = f"data.exclude {exclude}: {amount(left_out, 'image')} of {named} left out"
    is_odd = not left_out and named.startswith("data.uri")
    (log.warning if is_odd else log.info)(said + (": it names none of them" if is_odd else ""))
    return kept[0], kept[1] if test is not None else None
