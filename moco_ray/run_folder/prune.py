"""Old checkpoints of runs: which may go, and their end."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from moco_ray.config.patience import USUAL_PATIENCE, Patience
from moco_ray.run_folder.checkpoint_files import delete_checkpoint, newest_checkpoint, superfluous_steps
from moco_ray.run_folder.found import FoundRun
from moco_ray.run_folder.lease import LEASE, RunInUse, check_lease, hold_run, is_held, read_lease
from moco_ray.run_folder.names import CONFIG
from moco_ray.run_folder.summary import best_evaluation
from moco_ray.storage.storage import Storage

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """What goes of a run, or has gone."""

    name: str
    """Of the run."""
    delete: list[int]
    """Steps of the checkpoints that go."""
    keep: list[int]
    """Steps of those that stay."""
    num_bytes: int
    """Space that is won."""
    problem: str = ""
    """Why nothing goes."""
    has_failed: bool = False
    """Whether some of it may be gone, and the rest could not be deleted."""


def preview(run: FoundRun, patience: Patience = USUAL_PATIENCE) -> Pruning:
    """What would go of a run: all checkpoints but the newest whole one, the best one and those of keep_every_steps.

    Which one is whole, only its sizes tell here; `prune` reads it before it deletes others.
    """
    places = [place for place in _places(run) if place is not run.storage or LEASE in run.files]
    if any(is_held(read_lease(place), patience) for place in places):
        return _nothing(run, "it is running")
    newest = run.whole_checkpoint()
    if newest is None:
        return _nothing(run, "none of its checkpoints is whole" if run.checkpoints() else "")
    return _pruning(run, newest[0])


def prune(run: FoundRun, patience: Patience = USUAL_PATIENCE) -> Pruning:
    """Delete what may go of a run, while its lease, and that of its sweep, is held here.

    Raises:
        ValueError: It may not be written to, or none of its checkpoints verifies.
        LeaseLost: Somebody else has taken the run over meanwhile.
        OSError: The storage failed.
    """
    expected = preview(run, patience)
    if not expected.delete:
        return expected
    with ExitStack() as stack:
        try:
            leases = [stack.enter_context(hold_run(place, _no_step, patience, trains=False)) for place in _places(run)]
        except RunInUse:
            return _nothing(run, "it is running")
        run = replace(run, files=run.storage.files(run.storage.root))  # as it is now that nobody else writes
        newest = newest_checkpoint(run.storage)
        if newest is None:
            return _nothing(run, "none of its checkpoints is whole")
        pruning = _pruning(run, newest[0])
        for step in pruning.delete:
            for place, lease in zip(_places(run), leases, strict=True):
                check_lease(place, lease.owner)
            delete_checkpoint(run.storage, step)
        return pruning


def _places(run: FoundRun) -> list[Storage]:
    """Folders whose leases say that a run is under way: a sweep copies checkpoints of its trials."""
    return [run.storage] if run.sweep is None else [run.sweep, run.storage]


def _no_step() -> None:
    return None


def _pruning(run: FoundRun, newest: int) -> Pruning:
    damage: list[str] = []
    checkpoints, marker = run.checkpoints(), (run.whole_checkpoint() or (0, {}))[1]
    best = best_evaluation(run, marker, damage)
    every = _every(run, marker, damage)
    if damage:
        return _nothing(run, f"which checkpoints are to stay is not known: {'; '.join(damage)}")
    keep = {newest} | ({best["step"]} if best is not None else set())
    delete = superfluous_steps(list(checkpoints), keep_last=0, every=every, keep=keep)
    return Pruning(
        name=run.name,
        delete=delete,
        keep=[step for step in checkpoints if step not in delete],
        num_bytes=sum(checkpoints[step] for step in delete),
    )


def _every(run: FoundRun, marker: dict[str, Any], damage: list[str]) -> set[int | None]:
    """run.keep-every-steps of when the run began, and of now."""
    try:
        return {json.loads(run.read(CONFIG) or b"")["run"]["keep_every_steps"], marker.get("keep_every_steps")}
    except (ValueError, KeyError, TypeError):
        damage.append(f"{CONFIG} is damaged")
        return set()


def _nothing(run: FoundRun, problem: str) -> Pruning:
    return Pruning(name=run.name, delete=[], keep=list(run.checkpoints()), num_bytes=0, problem=problem)
