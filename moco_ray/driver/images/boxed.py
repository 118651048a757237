"""The images of a run that learns boxes."""

from __future__ import annotations

import logging

import numpy as np

from moco_ray.config import Config
from moco_ray.data.boxes.maker import trained_boxes
from moco_ray.data.boxes.read import has_split, read_boxes
from moco_ray.data.boxes.table import BAD_BOXES, BoxedImages, bad_lines
from moco_ray.data.known_bad import say_known_bad
from moco_ray.data.labels import amount
from moco_ray.data.manifest import Images, Manifest, make_manifest
from moco_ray.evaluate.eval_set import holdout_mask, labels_to_draw_by
from moco_ray.storage.storage import resolve_storage_options

log = logging.getLogger(__name__)


def list_boxed_images(config: Config, *, holds_out: bool) -> Images:
    """List the images to train on and to test on with their boxes, and say what there is.

    The images to test on are those of eval.uri, or those of another list of data.uri, or held out of those to train on.

    Args:
        config: Names them.
        holds_out: Whether to choose images to hold out, where no others are there to test on.

    Raises:
        ValueError: There are none, or their boxes cannot be used.
    """
    data, boxes = config.data, config.detection
    log.info(f"listing {data.uri}")
    options, json_options = (
        resolve_storage_options(uri, data.storage_options) for uri in (data.uri, boxes.annotations or data.uri)
    )
    train = read_boxes(data.uri, boxes.annotations, boxes.split, data.classes or (), options, json_options)
    _say(train, f"to train on: ({boxes.annotations or boxes.split}) ", config)
    manifest, bad = _manifest(train), list(train.bad)
    test = _read_test(config, train.classes)
    if test is not None:
        _say(test, "to test on: ", config)
        bad += test.bad
    elif holds_out:
        manifest = manifest.with_holdout(holdout_mask(labels_to_draw_by(manifest), config.eval, config.run.seed))
        num_held_out = len(manifest) - len(manifest.train_rows())
        log.info(
            f"{num_held_out:,} of {len(manifest):,} images are held out to test on; name others with --eval.uri or "
            "--detection.test-annotations"
        )
    say_known_bad(manifest, data.max_bad_fraction)
    notes = {BAD_BOXES: bad_lines(bad)} if bad else {}
    return Images(train=manifest, test=None if test is None else _manifest(test), notes=notes)


def _read_test(config: Config, classes: tuple[str, ...]) -> BoxedImages | None:
    """The images to test on; None: there are none beside those to train on."""
    data, boxes, uri = config.data, config.detection, config.eval.uri or config.data.uri
    options = resolve_storage_options(uri, data.storage_options)
    if uri == data.uri:
        trained, tested = (
            (boxes.annotations, boxes.test_annotations) if boxes.annotations else (boxes.split, boxes.test_split)
        )
        if trained == tested:
            raise ValueError(
                f"the boxes to test on are those that are trained on, {tested} of {uri}; name others with "
                "--detection.test-annotations or --detection.test-split"
            )
        if not tested or not (boxes.annotations or has_split(uri, tested, options)):
            return None
    json_options = resolve_storage_options(boxes.test_annotations or uri, data.storage_options)
    return read_boxes(uri, boxes.test_annotations, boxes.test_split, classes, options, json_options, needs_all=False)


def _say(images: BoxedImages, which: str, config: Config) -> None:
    first, *others = images.words()
    log.info(which + first)
    for line in others:
        if line.startswith("warning: "):
            log.warning(line.removeprefix("warning: "))
        else:
            log.info(line)
    most = config.detection.max_boxes
    if crowded := sum(len(trained_boxes(own)) > most for own in images.targets):
        log.warning(
            f"{amount(crowded, 'image')} {'has' if crowded == 1 else 'have'} more than {most} boxes, of which the first are "
            "trained on; --detection.max-boxes takes more"
        )


def _manifest(images: BoxedImages) -> Manifest:
    return make_manifest(
        uris=images.uris,
        labels=np.full(len(images), -1),
        classes=images.classes,
        num_bytes=np.array(images.num_bytes),
        targets=[own.ravel().tolist() for own in images.targets],
    )
