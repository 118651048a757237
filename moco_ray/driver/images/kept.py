"""The images of a run that exists: those of its manifest, wherever they lie now, or those that were listed anew."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moco_ray.config import Config
from moco_ray.data.boxes.table import BAD_BOXES
from moco_ray.data.compare import Comparison
from moco_ray.data.decode import BadImage
from moco_ray.data.manifest import Images, Manifest
from moco_ray.data.reading import decode, read_rows
from moco_ray.driver.images.current import current_images
from moco_ray.driver.images.listing import list_images
from moco_ray.evaluate.eval_set import holdout_mask, labels_to_draw_by
from moco_ray.run_folder.begin import EVAL_MANIFEST, LINEAGE, begin_run, stored_images, write_config, write_images
from moco_ray.run_folder.checkpoint import CheckpointStore
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.worker.console import silence

log = logging.getLogger(__name__)
BAD_IMAGES = "bad_images.jsonl"
_READ_AGAIN, _PIECE = 10_000, 256


@dataclass(frozen=True, kw_only=True)
class RunImages:
    """The images of a run that goes on."""

    images: Images
    """What the run goes on with."""
    stored: Images
    """What its folder holds."""
    decided_rows: int
    """Images to train on when automatic values were decided."""
    listed_at_step: int
    """Step at which they were listed for the last time."""
    changes: str = ""
    """How those to train on differ from the stored ones, if they do."""
    begins_anew: bool = False
    """Whether nothing has been trained yet, so that all is decided by the images as they are now."""


def images_of_run(run: Storage, old: Config, config: Config) -> RunImages:
    """The images that a run goes on with. Nothing is written yet.

    With data.relist they are listed anew. Else, where data.uri or eval.uri names another place, the same images are
    looked for there.

    Args:
        run: The run's folder.
        old: The configuration it was begun with.
        config: The one it goes on with.

    Raises:
        ValueError: There are other images in another place.
    """
    with silence():
        step = CheckpointStore(storage=run).newest() if config.data.relist else None
    stored, relists = _stored(run, config), _relists(run)
    images, difference = current_images(stored, old, config)
    if difference is not None and step is None:
        log.info("no checkpoint has been written yet: the run begins with the images as they are now")
        with silence():
            images = list_images(config)  # with whatever is held out of them
        log.info(
            f"{len(images.train) - len(images.train.train_rows()):,} of the {len(images.train):,} images are held out"
        )
        return RunImages(
            images=images,
            stored=stored,
            decided_rows=len(images.train.train_rows()),
            listed_at_step=0,
            changes=difference.words(),
            begins_anew=True,
        )
    listed_at_step = relists[-1]["until_step"] if relists else 0
    if difference is not None and step is not None:
        train = _with_old_holdout(stored.train, images.train, difference, config).succeeding(stored.train)
        images, listed_at_step = replace(images, train=train), step
    return RunImages(
        images=images,
        stored=stored,
        decided_rows=relists[0]["num_images"][0] if relists else len(stored.train.train_rows()),
        listed_at_step=listed_at_step,
        changes=difference.words() if difference else "",
    )


def check_same_images(kept: RunImages, config: Config) -> None:
    """Refuse other images for a run that keeps something for each of them.

    Raises:
        ValueError: It has trained on other images.
    """
    if kept.changes and not kept.begins_anew:
        raise ValueError(
            f"--data.relist: the method {config.method.name} keeps an entry for each image and cannot go on with others; "
            "begin another run with another --run.name, or put the old images back"
        )


def adopt(run: Storage, kept: RunImages, old: Config, config: Config) -> None:
    """Write the images that have been listed anew, or have moved, into the run's folder.

    The old list stays beside the new one, and lineage.jsonl says until which step it was trained on.

    Args:
        run: The run's folder.
        kept: The images that the run goes on with.
        old: The configuration it was begun with.
        config: The one it goes on with, automatic values decided.
    """
    if kept.begins_anew:
        for name in (LINEAGE, BAD_IMAGES, BAD_BOXES, EVAL_MANIFEST):
            run.delete(run.join(name))
        begin_run(run, config, kept.images)
        return
    if kept.changes:
        _keep_old_list(run, kept, config)
        before, now = (len(images.train.train_rows()) for images in (kept.stored, kept.images))
        if now != before:
            log.info(
                f"from step {kept.listed_at_step:,} on this run is trained on {now:,} images instead of {before:,}"
            )
    if config.data.relist and not kept.images.notes:
        run.delete(run.join(BAD_BOXES))
    if kept.images is kept.stored:
        return
    if kept.images.test is None:
        run.delete(run.join(EVAL_MANIFEST))
    write_images(run, kept.images)
    if kept.changes:
        run.delete(run.join(BAD_IMAGES))  # they bear the numbers of the old list
    data, eval_ = replace(old.data, uri=config.data.uri), replace(old.eval, uri=config.eval.uri)
    detection = replace(
        old.detection,
        annotations=config.detection.annotations,
        test_annotations=config.detection.test_annotations,
    )
    write_config(run, replace(old, data=data, eval=eval_, detection=detection))


def _keep_old_list(run: Storage, kept: RunImages, config: Config) -> None:
    """Write the old list under another name, and a line of lineage.jsonl about the change."""
    name = f"manifest_until_{kept.listed_at_step:09d}"
    while run.exists(run.join(f"{name}.parquet")):
        name += "_"
    kept.stored.train.write(run, run.join(f"{name}.parquet"))
    line = {
        "until_step": kept.listed_at_step,
        "run": config.run.name,
        "changed": [f"images: {kept.changes}"],
        "num_images": [len(images.train.train_rows()) for images in (kept.stored, kept.images)],
        "manifest": f"{name}.parquet",
    }
    lineage = run.read_bytes(run.join(LINEAGE)) if run.exists(run.join(LINEAGE)) else b""
    run.write_bytes(run.join(LINEAGE), lineage + json.dumps(line).encode() + b"\n")


def mended_rows(run: Storage, manifest: Manifest, config: Config, options: StorageOptions) -> frozenset[int]:
    """Rows that the run has listed as bad and that are good now; looked for only where too many are bad.

    Raises:
        ValueError: None of the images can be read.
        ReadError: The storage does not answer.
    """
    lines = stored_lines(run, BAD_IMAGES)
    rows = np.array([line["row"] for line in lines], dtype=np.int64)
    if len(rows) <= config.data.max_bad_fraction * len(manifest.train_rows()):
        return frozenset()
    good: set[int] = set()
    rows = rows[rows < len(manifest)][:_READ_AGAIN]
    for start in range(0, len(rows), _PIECE):
        piece = rows[start : start + _PIECE]
        for row, content in zip(piece, read_rows(manifest, piece, options), strict=True):
            try:
                decode(content, max_pixels=config.data.max_pixels)
            except BadImage:
                continue
            good.add(int(row))
    log.info(f"{len(good):,} of {len(lines):,} bad images are good now")
    return frozenset(good)


def _stored(run: Storage, config: Config) -> Images:
    try:
        return stored_images(run)
    except ValueError as error:
        raise ValueError(
            f"{error}. It lists the images of run {config.run.name}: put it back from a copy, or begin another run with "
            "another --run.name"
        ) from error


def _with_old_holdout(old: Manifest, new: Manifest, difference: Comparison, config: Config) -> Manifest:
    """The new images with those held out that were, so that what was trained on is not evaluated on.

    Where fewer than half of them are left, others are drawn from the images that are new.
    """
    was = old.table["is_holdout"].to_numpy()
    if not was.any():
        return new
    rows = difference.new_rows
    mask = np.zeros(len(new), dtype=bool)
    mask[rows[was & (rows >= 0)]] = True
    num_old, num_kept = int(was.sum()), int(mask.sum())
    gone = f": {num_old - num_kept:,} of {num_old:,} are gone, or have other names and are trained on from now on"
    log.info(f"{num_kept:,} images are held out, as before" + (gone if num_kept < num_old else ""))
    is_new = np.ones(len(new), dtype=bool)
    is_new[rows[rows >= 0]] = False
    if 2 * num_kept < num_old and is_new.any():
        mask = holdout_mask(labels_to_draw_by(new), config.eval, config.run.seed, kept=mask, among=is_new)
        log.info(
            f"{int(mask.sum()) - num_kept:,} of the {int(is_new.sum()):,} added images are held out instead; those that only "
            "have other names now may have been trained on"
        )
    if not mask.any():
        log.warning("all images that were held out are gone: others are now, which have been trained on")
        mask = holdout_mask(labels_to_draw_by(new), config.eval, config.run.seed)
    return new.with_holdout(mask)


def _relists(run: Storage) -> list[dict[str, Any]]:
    return [line for line in stored_lines(run, LINEAGE) if "num_images" in line]
