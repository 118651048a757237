"""The images of a run that exists: those of its manifest, wherever they lie now, or those that were listed anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moco_ray.config import Config
from moco_ray.data.compare import Comparison, compare, is_same_place
from moco_ray.data.decode import BadImage
from moco_ray.data.manifest import Manifest
from moco_ray.data.reading import decode, read_rows
from moco_ray.data.storage import Storage, StorageOptions, resolve_storage_options
from moco_ray.train.checkpoint import CheckpointStore
from moco_ray.train.found import EVAL_MANIFEST, LINEAGE, MANIFEST, found_run, list_eval_images, write_config
from moco_ray.train.plan import list_images

BAD_IMAGES = "bad_images.jsonl"
_READ_AGAIN, _PIECE = 10_000, 256

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class RunImages:
    """The images of a run that goes on."""

    manifest: Manifest
    """Those to train on."""
    eval_manifest: Manifest | None
    """Those of eval.uri."""
    decided_rows: int
    """Images to train on when automatic values were decided."""
    listed_at_step: int
    """Step at which they were listed for the last time."""
    new_files: dict[str, Manifest]
    """Manifests of the run's folder that must be written, by name."""
    replaced: Manifest | None
    """What the run was trained on until `listed_at_step`, if it is not that any more."""
    changes: str
    """How they differ from that."""
    begins_anew: bool = False
    """Whether nothing has been trained yet, so that all is decided by the images as they are now."""


def images_of_run(run: Storage, old: Config, config: Config, say: Say) -> RunImages:
    """The images that a run goes on with. Nothing is written yet.

    With data.relist they are listed anew. Else, where data.uri or eval.uri names another place, the same images are
    looked for there.

    Args:
        run: The run's folder.
        old: The configuration it was begun with.
        config: The one it goes on with.
        say: Prints a line.

    Raises:
        ValueError: There are other images in another place, or the method cannot go on with others.
    """
    step = CheckpointStore(storage=run).newest(lambda line: None) if config.data.relist else None
    stored = _stored(run, MANIFEST, config)
    relists = _relists(run)
    told = {
        "decided_rows": relists[0]["num_images"][0] if relists else len(stored.train_rows()),
        "listed_at_step": relists[-1]["until_step"] if relists else 0,
    }

    def listed() -> Manifest:
        options = resolve_storage_options(config.data.uri, config.data.storage_options)
        return list_images(config, options, say)

    uris = ("data.uri", old.data.uri, config.data.uri)
    now, difference = current_list(stored, listed, uris, config, say)
    eval_stored, eval_now = None, None
    if config.eval.uri and old.eval.uri:
        eval_stored = _stored(run, EVAL_MANIFEST, config)
        eval_uris = ("eval.uri", old.eval.uri, config.eval.uri)
        eval_now, _ = current_list(eval_stored, lambda: list_eval_images(config, say), eval_uris, config, say)
    replaced = None
    begins_anew = difference is not None and step is None
    if begins_anew:
        told = {"decided_rows": len(now.train_rows()), "listed_at_step": 0}
        eval_now = eval_now or (list_eval_images(config, say) if config.eval.uri else None)
        say("no checkpoint has been written yet: the run begins with the images as they are now")
    elif difference is not None and step is not None:
        replaced, now = stored, _with_old_holdout(stored, now, difference, say).succeeding(stored)
        told["listed_at_step"] = step
    new = {MANIFEST: (stored, now), EVAL_MANIFEST: (eval_stored, eval_now)}
    return RunImages(
        manifest=now,
        eval_manifest=eval_now,
        new_files={name: after for name, (before, after) in new.items() if after is not None and after is not before},
        replaced=replaced,
        changes=difference.words() if difference else "",
        begins_anew=begins_anew,
        **told,
    )


def adopt(run: Storage, images: RunImages, old: Config, config: Config, say: Say) -> None:
    """Write the images that have been listed anew, or have moved, into the run's folder.

    The old list stays beside the new one, and lineage.jsonl says until which step it was trained on.

    Args:
        run: The run's folder.
        images: Those that the run goes on with.
        old: The configuration it was begun with.
        config: The one it goes on with, automatic values decided.
        say: Prints a line.
    """
    if images.begins_anew:
        for name in (LINEAGE, BAD_IMAGES):
            run.delete(run.join(name))
        found_run(run, config, images.manifest, images.eval_manifest)
        return
    if images.replaced is not None:
        _check_method(config)
        _keep_old_list(run, images, images.replaced, config)
        say(
            f"from step {images.listed_at_step:,} on this run is trained on {len(images.manifest.train_rows()):,} images "
            f"instead of {len(images.replaced.train_rows()):,}"
        )
    for name, manifest in images.new_files.items():
        manifest.write(run, run.join(name))
    if images.replaced is not None:
        run.delete(run.join(BAD_IMAGES))  # they bear the numbers of the old list
    if images.new_files:
        data, eval_ = replace(old.data, uri=config.data.uri), replace(old.eval, uri=config.eval.uri)
        write_config(run, replace(old, data=data, eval=eval_))


def _keep_old_list(run: Storage, images: RunImages, before: Manifest, config: Config) -> None:
    """Write the old list under another name, and a line of lineage.jsonl about the change."""
    kept = f"manifest_until_{images.listed_at_step:09d}"
    while run.exists(run.join(f"{kept}.parquet")):
        kept += "_"
    before.write(run, run.join(f"{kept}.parquet"))
    line = {
        "until_step": images.listed_at_step,
        "run": config.run.name,
        "changed": [f"images: {images.changes}"],
        "num_images": [len(before.train_rows()), len(images.manifest.train_rows())],
        "manifest": f"{kept}.parquet",
    }
    lineage = run.read_bytes(run.join(LINEAGE)) if run.exists(run.join(LINEAGE)) else b""
    run.write_bytes(run.join(LINEAGE), lineage + json.dumps(line).encode() + b"\n")


def current_list(
    stored: Manifest, listed: Callable[[], Manifest], uris: tuple[str, str, str], config: Config, say: Say
) -> tuple[Manifest, Comparison | None]:
    """The stored images where they lie now, or those listed anew and how they differ from the stored ones.

    Args:
        stored: The images as they were listed.
        listed: Lists them anew.
        uris: The name of the field that says where they lie, what it was, and what it is.
        config: Says whether they are to be listed anew.
        say: Prints a line.

    Raises:
        ValueError: Other images lie in the new place.
    """
    field, was, uri = uris
    is_here = is_same_place(stored, was, uri)
    if is_here and not config.data.relist:
        return stored, None
    new = listed()
    difference = compare(stored, was, new, uri)
    if config.data.relist and not (difference.has_same_images and not difference.relabelled):
        say(f"{field} {uri} has changed: {difference.words()}")
        return new, difference
    if not difference.has_same_images:
        raise ValueError(
            f"run {config.run.name} is another experiment: {field} was {was!r}, now {uri!r}, where the images are not the "
            f"same: {difference.words()}. Use the old value, or another --run.name; or go on with the images of the new "
            "place by giving the same command with --data.relist"
        )
    if is_here and stored.table["uri"].equals(new.table["uri"]):
        say(f"{field} {uri} has not changed: the same {len(stored):,} images")
        return stored, None
    say(f"the {len(stored):,} images of {field} {was} lie in {uri} now")
    if difference.relabelled:
        say(f"warning: {len(difference.relabelled):,} have another label there; the run keeps its own (--data.relist)")
    return stored.moved(new.table["uri"].combine_chunks().take(difference.new_rows)), None


def mended_rows(run: Storage, manifest: Manifest, config: Config, options: StorageOptions, say: Say) -> frozenset[int]:
    """Rows that the run has listed as bad and that are good now; looked for only where too many are bad.

    Raises:
        ValueError: None of the images can be read.
        ReadError: The storage does not answer.
    """
    path = run.join(BAD_IMAGES)
    lines = run.read_bytes(path).splitlines() if run.exists(path) else []
    rows = np.array([json.loads(line)["row"] for line in lines], dtype=np.int64)
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
    say(f"{len(good):,} of {len(lines):,} bad images are good now")
    return frozenset(good)


def _stored(run: Storage, name: str, config: Config) -> Manifest:
    try:
        return Manifest.read(run, run.join(name))
    except ValueError as error:
        raise ValueError(
            f"{error}. It lists the images of run {config.run.name}: put it back from a copy, or begin another run with "
            "another --run.name"
        ) from error


def _with_old_holdout(old: Manifest, new: Manifest, difference: Comparison, say: Say) -> Manifest:
    """The new images with those held out that were, so that what was trained on is not evaluated on."""
    was = old.table["is_holdout"].to_numpy()
    mask = np.zeros(len(new), dtype=bool)
    mask[difference.new_rows[was & (difference.new_rows >= 0)]] = True
    if was.any() and not mask.any():
        say("warning: all images that were held out are gone: others are now, which have been trained on")
        return new
    say(
        f"{int(mask.sum()):,} images are held out, as before"
        + (f" ({int(was.sum()):,} were)" if mask.sum() != was.sum() else "")
    )
    return new.with_holdout(mask)


def _check_method(config: Config) -> None:
    """Refuse other images for a method that keeps something for each of them."""
    if config.method.num_entries(1) != config.method.num_entries(2):
        raise ValueError(
            f"--data.relist: the method {config.method.name} keeps an entry for each image and cannot go on with others; "
            "begin another run with another --run.name, or put the old images back"
        )


def _relists(run: Storage) -> list[dict[str, Any]]:
    path = run.join(LINEAGE)
    lines = run.read_bytes(path).splitlines() if run.exists(path) else []
    return [line for line in map(json.loads, lines) if "num_images" in line]
