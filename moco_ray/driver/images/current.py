"""The images of a run or a sweep as they are now: in their place, in another one, or listed anew."""

from __future__ import annotations

import logging
from dataclasses import replace

from moco_ray.config import Config
from moco_ray.data.compare import Comparison, compare, is_same_place
from moco_ray.data.labels import quoted
from moco_ray.data.manifest import Images, Manifest
from moco_ray.driver.images.listing import list_eval_images, list_images

log = logging.getLogger(__name__)


def current_images(stored: Images, old: Config, config: Config) -> tuple[Images, Comparison | None]:
    """The stored images where they lie now, or with data.relist those listed anew.

    Args:
        stored: The images as they were listed.
        old: The configuration they were listed for.
        config: The one that is asked for now.

    Those to train on are all of data.uri where they are listed anew: none is held out yet.

    Returns:
        The images, the stored object itself where nothing is new, and how those to train on differ from the stored
        ones; None where they do not.

    Raises:
        ValueError: A new place holds other images, or others to test on are named for a run that holds out its own.
    """
    relist = config.data.relist
    if relist and config.needs_labels and config.data.label_fraction < 1:
        raise ValueError(
            f"--data.relist: data.label-fraction {config.data.label_fraction:g} would be drawn anew from other images; begin "
            "another run with another --run.name"
        )
    data_uris = ("data.uri", old.data.uri, config.data.uri)
    eval_uris = ("eval.uri", old.eval.uri or old.data.uri, config.eval.uri)  # they may have been a part of data.uri
    for name, was, now in (
        ("eval.uri", old.eval.uri, config.eval.uri),
        ("detection.test-annotations", old.detection.test_annotations, config.detection.test_annotations),
    ):
        if now and not was and stored.test is None:
            raise ValueError(
                f"run {config.run.name} is another experiment: {name} was '', now {now!r}. Use the old value to resume it, or "
                "another --run.name"
            )
    is_train_here = is_same_place(stored.train, *data_uris[1:])
    has_own_test = bool(config.eval.uri)
    is_test_here = stored.test is None or not has_own_test or is_same_place(stored.test, *eval_uris[1:])
    if is_train_here and is_test_here and not relist:
        return stored, None
    if is_train_here and not relist:
        assert stored.test is not None
        test, _ = _current(stored.test, list_eval_images(config), eval_uris, config)
        return replace(stored, test=test), None
    listed = list_images(config, holds_out=False)
    train, difference = _current(stored.train, listed.train, data_uris, config)
    learned, known = (images.target_names or images.classes for images in (train, stored.train))
    if (config.needs_labels or config.task == "detection") and learned != known:
        new, gone = (
            quoted([name for name in one if name not in other]) or "none"
            for one, other in ((learned, known), (known, learned))
        )
        raise ValueError(
            f"--data.relist: what was learned tells other classes apart (new: {new}; gone: {gone}); begin another run with "
            "another --run.name"
        )
    uris = eval_uris if has_own_test else data_uris
    images = Images(train=train, test=stored.test, notes=listed.notes)
    return _with_test(images, stored, listed, uris, config), difference


def _with_test(images: Images, stored: Images, listed: Images, uris: tuple[str, str, str], config: Config) -> Images:
    """The images with those to classify as they are now; the stored object itself where nothing is new."""
    if stored.test is not None and listed.test is not None:
        images = replace(images, test=_current(stored.test, listed.test, uris, config)[0])
    elif stored.test is not None and not config.data.relist:
        raise ValueError(
            f"{uris[0]} was {uris[1]!r}, now {uris[2]!r}, where the images to classify are missing; copy them, too, or name "
            "their place with --eval.uri"
        )
    elif stored.test is not None:
        log.warning("the images to classify are gone")
        images = replace(images, test=None)
    same = images.train is stored.train and images.test is stored.test and not images.notes
    return stored if same else images


def _current(
    stored: Manifest, new: Manifest, uris: tuple[str, str, str], config: Config
) -> tuple[Manifest, Comparison | None]:
    """The stored images where they lie now, or those listed anew and how they differ from the stored ones."""
    field, was, uri = uris
    is_here = is_same_place(stored, was, uri)
    difference = compare(stored, was, new, uri)
    if config.data.relist and not (difference.has_same_images and not difference.relabelled):
        log.info(f"{field} {uri} has changed: {difference.words()}")
        return new, difference
    if not difference.has_same_images:
        raise ValueError(
            f"run {config.run.name} is another experiment: {field} was {was!r}, now {uri!r}, where the images are not the "
            f"same: {difference.words()}. Use the old value, or another --run.name; or go on with the images of the new "
            "place by giving the same command with --data.relist"
        )
    if is_here and stored.table["uri"].equals(new.table["uri"]):
        log.info(f"{field} {uri} has not changed: the same {len(stored):,} images")
        return stored, None
    log.info(f"the {len(stored):,} images of {field} {was} lie in {uri} now")
    if difference.relabelled:
        log.warning(f"{len(difference.relabelled):,} have another label there; the run keeps its own (--data.relist)")
    return stored.moved(new.table["uri"].take(difference.new_rows)), None
