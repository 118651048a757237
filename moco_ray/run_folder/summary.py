"""What a run is, how far it came and what it cost, from a few small files of its folder."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from moco_ray.config.changes import changes_of
from moco_ray.config.optim import OptimConfig
from moco_ray.config.patience import USUAL_PATIENCE, Patience
from moco_ray.data.manifest import Manifest
from moco_ray.run_folder.end import END
from moco_ray.run_folder.found import FoundRun, in_threads
from moco_ray.run_folder.lease import LEASE, is_held, read_lease
from moco_ray.run_folder.metrics import best_line
from moco_ray.run_folder.names import CONFIG, MANIFEST, record_of
from moco_ray.storage.uris import without_secrets

log = logging.getLogger(__name__)
EVALUATIONS = "eval.jsonl"
FIRST_TASK, FIRST_BEST_BY = "pretraining", "eval/knn_top1"  # of runs whose files do not say
_ALL_THERE = "metrics.jsonl"  # is written last
_MOST_POINTS = 50


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run at a glance."""

    name: str
    """Of the run; SWEEP/TRIAL of a trial."""
    uri: str
    """Its folder."""
    state: str
    """running, ended, stopped, failed, or damaged."""
    reason: str = ""
    """Why, as far as that was written."""
    damage: list[str] = field(default_factory=list)
    """What in its folder cannot be read."""
    task: str = FIRST_TASK
    """What it trains."""
    preset: str | None = None
    """What its configuration started from."""
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Fields that differ from the preset's: value, and the preset's."""
    best: dict[str, Any] | None = None
    """The best measurement: metric, value, step."""
    measured: list[tuple[int, float]] = field(default_factory=list)
    """Steps and values of that metric, as many as show its course."""
    step: int = 0
    """Steps done, as far as is known."""
    last_step: int | None = None
    """Steps in all."""
    device_hours: dict[str, float] | None = None
    """Hours times workers up to the newest checkpoint, by kind of device (cuda, cpu); None of runs that did not count."""
    num_bytes: int
    """Size of its folder."""
    checkpoint: int | None = None
    """Steps of the newest checkpoint that is whole as far as its sizes tell."""
    changed_at: float
    """When something was last written, in seconds since 1970."""


def summaries(runs: Sequence[FoundRun], patience: Patience = USUAL_PATIENCE) -> list[RunSummary]:
    """Summaries of runs, the one that was written to last first. Nothing is raised over what is damaged.

    Args:
        runs: Of `find_runs`.
        patience: With leases of which only their renewal tells whether anybody holds them.

    Raises:
        OSError: The storage does not answer.
    """
    leases = in_threads(lease_of, runs)
    held = {run.name: is_held(lease, patience) for run, lease in zip(runs, leases, strict=True)}
    unsure = [(run, lease) for run, lease in zip(runs, leases, strict=True) if held[run.name] is None]
    if unsure:
        log.info(f"watching for {patience.lease_watch:.0f} s whether {len(unsure)} of the runs are alive")
        time.sleep(patience.lease_watch)
        for (run, before), now in zip(unsure, in_threads(lease_of, [run for run, _ in unsure]), strict=True):
            held[run.name] = bool(now.get("owner")) and now != before

    def look(pair: tuple[FoundRun, dict[str, Any]]) -> RunSummary:
        run, lease = pair
        return summary_or_damage(run, lease, is_live=bool(held[run.name]))

    found = in_threads(look, zip(runs, leases, strict=True))
    return sorted(found, key=lambda run: (-run.changed_at, run.name))


def lease_of(run: FoundRun) -> dict[str, Any]:
    """The run's lease as it is now; empty if there was none when it was listed."""
    return read_lease(run.storage) if LEASE in run.files else {}


def summary_or_damage(run: FoundRun, lease: Mapping[str, Any], *, is_live: bool) -> RunSummary:
    """As `summary_of`, of a run whose files may hold values that no version has written."""
    try:
        return summary_of(run, lease, is_live=is_live)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return _damaged(run, f"{type(error).__name__}: {error}")


def summary_of(run: FoundRun, lease: Mapping[str, Any], *, is_live: bool) -> RunSummary:
    """The summary of one run.

    Args:
        run: Its folder.
        lease: That lies there.
        is_live: Whether somebody holds it.
    """
    damage: list[str] = []
    config, end = _object(run, CONFIG, damage) or {}, _object(run, END, damage) or {}
    is_config = isinstance(config.get("preset"), str) and isinstance(config.get("optim"), dict)
    config = config if is_config else {}
    newest = run.whole_checkpoint()
    step, marker = newest or (0, {})
    if newest is None and run.checkpoints():
        damage.append("none of its checkpoints is whole")
    best_by = marker.get("best_by", FIRST_BEST_BY)
    evaluations = _evaluations(run, best_by, damage)
    last_step = marker.get("last_step") or _last_step(run, config)
    seconds = marker.get("device_s")
    summary = RunSummary(
        name=run.name,
        uri=run.storage.uri(run.storage.root),
        state="stopped",
        damage=damage,
        task=str(config.get("task", FIRST_TASK)),
        preset=config.get("preset"),
        changes=_shown(changes_of(config)),
        best=_best(evaluations, best_by),
        measured=_course(evaluations, best_by),
        step=max(step, *(step_done(value) for value in (lease.get("last_step"), [end.get("step")]))),
        last_step=last_step,
        device_hours=None if seconds is None else {kind: value / 3600 for kind, value in seconds.items()},
        num_bytes=run.num_bytes,
        checkpoint=None if newest is None else step,
        changed_at=time.time() if is_live else run.changed_at,
    )
    if is_live:
        return replace(summary, state="running")
    if not is_config:
        return replace(summary, state="damaged", reason=f"{CONFIG} is missing, or is none of a run")
    return _with_end(summary, run, end, is_done=last_step is not None and step >= last_step)


def best_evaluation(run: FoundRun, marker: Mapping[str, Any], damage: list[str]) -> dict[str, Any] | None:
    """The highest value of the measure by which a run is judged: metric, value, step.

    Args:
        run: The run.
        marker: Of its newest checkpoint.
        damage: Lines that cannot be read are left out, and noted here.
    """
    best_by = marker.get("best_by", FIRST_BEST_BY)
    return _best(_evaluations(run, best_by, damage), best_by)


def _best(lines: Sequence[dict[str, Any]], best_by: str) -> dict[str, Any] | None:
    best = best_line(lines, best_by)
    return None if best is None else {"metric": best_by, "value": best[best_by], "step": best["step"]}


def _evaluations(run: FoundRun, best_by: str, damage: list[str]) -> list[dict[str, Any]]:
    """The lines of the evaluations, but for those that cannot be read."""
    lines: list[dict[str, Any]] = []
    for number, text in enumerate((run.read(EVALUATIONS) or b"").splitlines(), start=1):
        try:
            line = json.loads(text)
            lines.append({**line, "step": int(line["step"])})
            if best_by in line:
                lines[-1][best_by] = float(line[best_by])
        except (ValueError, KeyError, TypeError):
            damage.append(f"{EVALUATIONS}: line {number} is damaged")
    return lines


def _course(lines: Sequence[dict[str, Any]], best_by: str) -> list[tuple[int, float]]:
    """Steps and values of a measure, evenly thinned, with the last one."""
    points = [(line["step"], line[best_by]) for line in lines if best_by in line]
    pace = -(-len(points) // _MOST_POINTS)
    return points[::-1][:: max(1, pace)][::-1]


def step_done(value: Any) -> int:
    """Steps of the pair of steps and time that a lease notes; 0 if it is none."""
    return value[0] if isinstance(value, list) and value and isinstance(value[0], int) else 0


def _damaged(run: FoundRun, reason: str) -> RunSummary:
    return RunSummary(
        name=run.name,
        uri=run.storage.uri(run.storage.root),
        state="damaged",
        reason=reason,
        num_bytes=run.num_bytes,
        changed_at=run.changed_at,
    )


def _with_end(summary: RunSummary, run: FoundRun, end: Mapping[str, Any], *, is_done: bool) -> RunSummary:
    """The summary of a run that nobody holds, with how it ended."""
    record = _trial(run)
    if end.get("state") == "failed":
        return replace(summary, state="failed", reason=str(end.get("reason", "")))
    if record.get("state") == "failed":
        return replace(summary, state="failed", reason=str(record.get("reason", "")))
    if end.get("state") != "stopped" and is_done and _ALL_THERE in run.files:
        return replace(summary, state="ended")
    if record.get("state") == "stopped":
        return replace(summary, reason=str(record.get("reason") or "the sweep has stopped it"))
    return replace(summary, reason=str(end.get("reason", "")))


def _trial(run: FoundRun) -> Mapping[str, Any]:
    """What a sweep has noted of its trial; empty of other runs."""
    if run.sweep is None or run.record is None:
        return {}
    with suppress(ValueError):  # Missing is one
        record = json.loads(run.sweep.read_bytes(run.sweep.join(*record_of(run.name.rsplit("/", 1)[-1]).split("/"))))
        return record if isinstance(record, dict) else {}
    return {}


def _object(run: FoundRun, name: str, damage: list[str]) -> dict[str, Any] | None:
    """A JSON object; None if there is none, or none that can be read."""
    try:
        content = run.read(name)
        values = None if content is None else json.loads(content)
    except (ValueError, RecursionError) as error:
        damage.append(f"{name} is damaged ({error})")
        return None
    if values is not None and not isinstance(values, dict):
        damage.append(f"{name} is no JSON object")
        return None
    return values


def _last_step(run: FoundRun, config: Mapping[str, Any]) -> int | None:
    """Steps in all of a run whose checkpoints do not say, as it was begun."""
    try:
        optim, most = config["optim"], config["run"].get("max_steps")
        if MANIFEST not in run.files:
            return None
        length = OptimConfig(epochs=optim["epochs"], global_batch_size=optim["global_batch_size"])
        steps = length.num_steps(Manifest.count_train_rows(run.storage, run.storage.join(MANIFEST)))
        return int(steps if most is None else min(steps, most))
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):  # Missing is one, too
        return None


def _shown(changes: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Changes without the credentials that a URL may hold."""

    def plain(value: Any) -> Any:
        return without_secrets(value) if isinstance(value, str) else value

    return {path: (plain(value), plain(before)) for path, (value, before) in changes.items()}
