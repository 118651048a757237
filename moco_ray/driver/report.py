"""What the driver knows for the report of a run: the command, the images, and what is left of bad ones."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence

import numpy as np

from moco_ray.cluster.workers import Workers
from moco_ray.data.manifest import Images, Manifest
from moco_ray.driver.plan import Plan
from moco_ray.report.bad_images import write_bad_images
from moco_ray.report.run_page import write_report
from moco_ray.report.some_views import show_views
from moco_ray.report.story import FACTS
from moco_ray.run_folder.sessions import note_session
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.storage.uris import shown, without_secrets

log = logging.getLogger(__name__)
_MOST_CLASSES = 1000
_PATIENCE_S = 30


def begin_report(plan: Plan, workers: Workers, command: str | None) -> threading.Thread:
    """Keep what only the driver knows while a run begins or goes on; what cannot be written is warned of.

    Returns:
        The thread that shows some views, beside the start of the workers.
    """
    options = (plan.run.options, plan.source.options, plan.eval_set.queries.options)
    note_session(plan.run, command, workers=workers.most, uses_gpu=workers.uses_gpu, options=options)
    note_images(plan.run, plan.images, plan.eval_set.words, options)
    thread = threading.Thread(target=_show_views, args=(plan,), name="views", daemon=True)
    thread.start()
    return thread


def _show_views(plan: Plan) -> None:
    if plan.config.task != "pretraining" or plan.old is not None:
        return
    try:
        show_views(plan.config, plan.run, plan.eval_set.queries)
    except Exception as error:  # a picture is no reason to stop a run
        log.info(f"the views could not be shown yet ({type(error).__name__}: {error})")


def end_report(plan: Plan, views: threading.Thread) -> None:
    """Write the page of a run that has ended well; `views` is what `begin_report` has returned."""
    views.join(_PATIENCE_S)
    write_bad_images(plan.run, plan.images.train, plan.source.options)
    if (place := write_report(plan.run, is_live=False)) is not None:
        log.info(f"report: {place}")


def note_images(run: Storage, images: Images, words: str, options: Sequence[StorageOptions]) -> None:
    """Write report/images.json: how many images there are, of which classes.

    Args:
        run: The run's folder.
        images: Its images.
        words: What is measured on which of them.
        options: Access to storage, whose values the file must not show.
    """
    train, test = images.train, images.test
    rows = train.train_rows()
    sizes = train.table["num_bytes"].to_numpy()
    others = train.other_rows(rows)
    counts = _counts(train, train.labels[rows])
    known = _counts(test, test.labels) if test is not None else _counts(train, train.labels[others])
    names = list(dict.fromkeys([*counts, *known]))
    facts = {
        "train": len(rows),
        "held_out": len(others),
        "test": None if test is None else len(test),
        "bytes": int(sizes.sum()) if len(sizes) and (sizes >= 0).all() else None,
        "num_classes": len(names),
        "has_eval": bool(known),
        "classes": [[shown(name), counts.get(name, 0), known.get(name, 0)] for name in names[:_MOST_CLASSES]],
        "words": without_secrets(words, options),
    }
    try:
        run.write_bytes(run.join(*FACTS.split("/")), json.dumps(facts).encode())
    except (OSError, ValueError) as error:
        log.warning(f"{FACTS} could not be written ({error})")


def _counts(manifest: Manifest, labels: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> dict[str, int]:
    """Images of each class that has some, the classes in their order."""
    counts = np.bincount(labels[labels >= 0], minlength=len(manifest.classes))
    return {name: int(count) for name, count in zip(manifest.classes, counts, strict=False) if count}
