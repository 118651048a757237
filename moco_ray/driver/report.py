"""What the driver knows for the report of a run: the command, the images, and what is left of bad ones."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moco_ray.cluster.workers import Workers
from moco_ray.data.manifest import Images, Manifest
from moco_ray.driver.plan import Plan
from moco_ray.report.bad_images import write_bad_images
from moco_ray.report.run_page import RunReport, says_ended, write_report
from moco_ray.report.some_views import show_views
from moco_ray.report.story import FACTS
from moco_ray.run_folder.lease import check_lease
from moco_ray.run_folder.sessions import note_session
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.storage.uris import shown, without_secrets

log = logging.getLogger(__name__)
_MOST_CLASSES = 1000
_PATIENCE_S, _PATIENCE_OF_STOPPED_S = 30, 5


@dataclass(frozen=True, kw_only=True)
class BegunReport:
    """What is shown of a run while its workers start."""

    page: RunReport
    """That says that it goes on."""
    thread: threading.Thread
    """That shows some views and writes the page."""
    owner: str
    """Of the lease of the run."""


def begin_report(plan: Plan, workers: Workers, command: str | None, owner: str) -> BegunReport:
    """Keep what only the driver knows while a run begins or goes on; what cannot be written is warned of.

    Args:
        plan: Of the run.
        workers: That train it.
        command: That goes on with it.
        owner: Of the lease of the run.

    Returns:
        What goes on beside the start of the workers.
    """
    options = (plan.run.options, plan.source.options, plan.eval_set.queries.options)
    note_session(plan.run, command, workers=workers.most, uses_gpu=workers.uses_gpu, options=options)
    note_images(plan.run, plan.images, plan.eval_set.words, options)
    page = RunReport(plan.run.at_first(), is_gentle=True)
    thread = threading.Thread(target=_show_start, args=(plan, page, owner), name="views", daemon=True)
    thread.start()
    return BegunReport(page=page, thread=thread, owner=owner)


def _show_start(plan: Plan, page: RunReport, owner: str) -> None:
    """Some views of a run that begins; the page of any run that now goes on, however it ended before."""
    _show_views(plan)
    page.write_live(lambda: check_lease(plan.run.at_first(), owner))


def _show_views(plan: Plan) -> None:
    if plan.config.task != "pretraining" or plan.old is not None:
        return
    try:
        show_views(plan.config, plan.run, plan.eval_set.queries)
    except Exception as error:  # a picture is no reason to stop a run
        log.info(f"the views could not be shown yet ({type(error).__name__}: {error})")


def end_report(plan: Plan, begun: BegunReport) -> None:
    """Write the page of a run that has ended well; `begun` is what `begin_report` has returned."""
    begun.page.stop.set()
    begun.thread.join(_PATIENCE_S)
    _write_last(plan)


def stop_report(plan: Plan, begun: BegunReport, error: BaseException) -> None:
    """Write the page of a run that has not ended well, unless somebody else goes on with it; nothing is raised over it."""
    with contextlib.suppress(Exception):
        begun.page.stop.set()
        begun.thread.join(_PATIENCE_OF_STOPPED_S)
        run = plan.run.at_first()
        check_lease(run, begun.owner)
        if isinstance(error, ValueError):  # too many bad images, as it may be
            write_bad_images(run, plan.images.train, plan.source.options)
        write_report(run, is_live=False)


def mend_report(plan: Plan) -> None:
    """Write the page of a run that is finished, if its driver died before it could."""
    if not says_ended(plan.run):
        _write_last(plan)


def _write_last(plan: Plan) -> None:
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
    labels = train.target_names or train.classes if train.has_targets else names
    facts = {
        "train": len(rows),
        "held_out": len(others),
        "test": None if test is None else len(test),
        "bytes": int(sizes.sum()) if len(sizes) and (sizes >= 0).all() else None,
        "num_classes": len(labels),
        "kind": ("labels" if train.target_names else "boxes") if train.has_targets else None,
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
