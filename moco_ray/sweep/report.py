"""What a finished sweep leaves: the best configuration as a preset and as a command, and one page that says why."""

from __future__ import annotations

import json
import logging
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from moco_ray.config import from_json, to_json
from moco_ray.config.programs import program, spoken
from moco_ray.report.page import Row, Section, render_page
from moco_ray.run_folder.begin import CONFIG
from moco_ray.sweep.progress import number, shorten
from moco_ray.sweep.records import Record, best_of
from moco_ray.sweep.space import KNN, Space
from moco_ray.sweep.state import SweepState
from moco_ray.tasks.failure import RunFailed
from moco_ray.tasks.known import PROGRAMS, task_of

log = logging.getLogger(__name__)
BEST, REPORT = "best.json", "report.html"
_SHOWN_REASONS = 3


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """A finished sweep."""

    folder: str
    """The sweep's folder."""
    best: Record
    """The best trial."""
    preset: str
    """best.json: the best configuration, for --preset."""
    command: str
    """The best configuration as a command."""
    encoder: str
    """What the best trial has learned: an encoder, for `moco_ray.load_encoder`, or a classifier or detector."""
    records: tuple[Record, ...]
    """All trials."""


def conclude(state: SweepState, command: Sequence[str]) -> SweepResult:
    """Write and say what was found.

    Args:
        state: The sweep, with the workers that the user asked for: the best run has the cluster to itself.
        command: Arguments of jobs/pretrain.py that make what all trials have in common.

    Raises:
        RunFailed: No trial has a result.
    """
    config, storage, records = state.config, state.storage, state.ledger.in_order()
    best = best_of(records)
    if best is None:
        reasons = [f"  {record.name}: {record.reason}" for record in records if record.reason][:_SHOWN_REASONS]
        raise RunFailed("no trial has a result:\n" + "\n".join(reasons))
    stored = from_json(storage.read_bytes(storage.join(best.name, CONFIG)).decode())
    run = replace(config.run, name=None, storage_options=None)
    preset = replace(stored, run=run, eval=replace(stored.eval, max_time_fraction=config.eval.max_time_fraction))
    storage.write_bytes(storage.join(BEST), to_json(preset).encode())
    result = SweepResult(
        folder=state.uri,
        best=best,
        preset=storage.uri(storage.join(BEST)),
        command=best_command(PROGRAMS[config.task], command, best.parameters),
        encoder=f"{state.uri}/{best.name}/{task_of(config).results[0]}",
        records=tuple(records),
    )
    page = report_page(storage.root.rsplit("/", 1)[-1], result, state.space, state.metric)
    storage.write_bytes(storage.join(REPORT), page.encode())
    _say_result(state, result)
    return result


def _say_result(state: SweepState, result: SweepResult) -> None:
    best, records = result.best, result.records
    log.info(f"done: {_counts(records)}; {sum(record.seconds for record in records):,.0f} s of trials")
    log.info(f"best: {best.name} with {state.metric} {best.value:.4g}: {shorten(best.parameters)}")
    if (untrained := untrained_value(records)) is not None:
        log.info(f"    the untrained encoder has {untrained:.4g}")
    if (noise := describe_noise(records, best, state.metric)) is not None:
        log.info(f"    {noise}")
    log.info(f"as a preset: {spoken(PROGRAMS[state.config.task])} --preset {result.preset}")
    log.info(f"as a command: {result.command}")
    log.info(f"what it learned: {usage(result.encoder)}")
    log.info(f"why: {state.storage.uri(state.storage.join(REPORT))}")


def usage(file: str) -> str:
    """How to load what a trial has learned."""
    kind = file.rsplit("/", 1)[-1].partition(".")[0]
    return f"moco_ray.load_{kind}({file!r})"


def best_command(name: str, command: Sequence[str], parameters: dict[str, Any]) -> str:
    """The command of an ordinary run of a program with these parameters."""
    values = [part for path, value in parameters.items() for part in (f"--{path.replace('_', '-')}", text_of(value))]
    return shlex.join([*program(name), *command, *values])


def text_of(value: Any) -> str:
    """A value as a flag takes it, in full precision."""
    return json.dumps(value) if isinstance(value, float) else str(value)


def report_page(name: str, result: SweepResult, space: Space, metric: str) -> str:
    """The page.

    Args:
        name: Of the sweep.
        result: What it found; the best trial has a value.
        space: What was searched.
        metric: What was maximised.
    """
    from moco_ray.sweep import pictures  # here, because matplotlib takes half a second to import

    records, best = result.records, result.best
    seconds = sum(record.seconds for record in records)
    images = sum(_own_images(record, records) for record in records)
    sections = [
        Section(notes=[f"{len(records)} trials: {_counts(records)}. {images:,} images in {seconds:,.0f} s of trials."]),
        Section(
            heading=f"Best: {best.name}, {metric} {best.value:.4g}",
            notes=_about_best(records, best, metric),
            code=[
                result.command,
                f"{result.command.partition(' --')[0]} --preset {result.preset}",
                f"{result.encoder.rsplit('/', 1)[-1].partition('.')[0]} = {usage(result.encoder)}",
            ],
        ),
        Section(
            heading="All trials",
            notes=["A line is a trial, from its parameters to its value; red is the best, dashed were stopped early."],
            picture=pictures.parallel_picture(records, best, space, metric),
            is_drawn=True,
        ),
        Section(
            heading=f"{metric} against each parameter",
            notes=["Filled: finished. Hollow: stopped early, so measured after fewer images."],
            picture=pictures.parameters_picture(records, best, space, metric),
            is_drawn=True,
        ),
        Section(
            heading="Learning curves",
            notes=["Green: finished. Yellow, with a cross: stopped early. Red: the best."],
            picture=pictures.curves_picture(records, best, metric),
            is_drawn=True,
        ),
        Section(heading="Cost", picture=pictures.cost_picture(records, best), is_drawn=True),
        Section(heading="Numbers", rows=_table(records, best, space, metric)),
    ]
    return render_page(name, sections)


def _about_best(records: Sequence[Record], best: Record, metric: str) -> list[str]:
    """What to make of the best trial's value, and of its parameters."""
    values = [record.value for record in records if record.state == "finished" and record.value is not None]
    untrained, noise = untrained_value(records), describe_noise(records, best, metric)
    before = f" The untrained encoder has {untrained:.4g}." if untrained is not None else ""
    repeated = (
        "It is a copy of other trials: what it was trained with before is in its folder's lineage.jsonl, and a run with these "
        "values from the start is another run."
        if best.parent
        else "The same command gives the same encoder."
    )
    spread = f"Finished trials lie between {min(values):.4g} and {max(values):.4g}.{before} {repeated}"
    return [spread, *([f"{noise}."] if noise else [])]


def _own_images(record: Record, records: Sequence[Record]) -> int:
    """Images that a trial saw itself: a copy does not repeat what its parent did."""
    if not record.parent or not record.points:
        return record.images
    parent = next(other for other in records if other.name == record.parent)
    inherited = [point.position for point in parent.points if point.position < record.points[0].position]
    return record.images - max(inherited, default=0)


def _table(records: Sequence[Record], best: Record, space: Space, metric: str) -> list[Row]:
    """All trials, the best one first."""
    is_population = any(record.parent for record in records)
    head = Row(
        words=["trial", "state", *(["copy of"] if is_population else [])],
        numbers=[*(dimension.path for dimension in space), metric, "images", "seconds"],
    )
    rows = [
        Row(
            words=[record.name, record.state, *([record.parent] if is_population else [])],
            numbers=[
                *(number(record.parameters[dimension.path]) for dimension in space),
                "" if record.value is None else f"{record.value:.4g}",
                f"{record.images:,}",
                f"{record.seconds:,.0f}",
            ],
            remark=record.reason,
            is_best=record is best,
        )
        for record in sorted(records, key=lambda r: (r.state != "finished", math.inf if r.value is None else -r.value))
    ]
    return [head, *rows]


def _counts(records: Sequence[Record]) -> str:
    names = {"finished": "finished", "stopped": "stopped early", "failed": "failed"}
    counts = {name: sum(record.state == state for record in records) for state, name in names.items()}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _standard_error(record: Record, metric: str) -> float | None:
    """Standard error of a trial's value, in points; None where it is not known."""
    if metric != KNN or not record.points:
        return None
    return record.points[-1].metrics.get("eval/knn_error")


def untrained_value(records: Sequence[Record]) -> float | None:
    """What the encoder had before any step."""
    return next((point.value for record in records for point in record.points if point.step == 0), None)


def describe_noise(records: Sequence[Record], best: Record, metric: str) -> str | None:
    """A sentence on how sure it is that the best trial is the best; None where nothing is known of it."""
    error = _standard_error(best, metric)
    if error is None or best.value is None:
        return None
    images = best.points[-1].metrics.get("eval/knn_queries", 0.0)
    others = [record for record in records if record.state == "finished" and record is not best]
    near = 0
    for record in others:
        noise = math.hypot(error, _standard_error(record, metric) or error)
        near += record.value is not None and best.value - record.value < noise
    measured = f"{images:,.0f} images give a kNN accuracy of ± {error:.1f} points"
    if not others:
        return measured
    if near:
        return (
            f"{measured}: {near} of the {len(others)} other finished trials lie within this noise and may be as good; more "
            "images (--eval.uri, eval.max-queries) or other seeds would tell"
        )
    return (
        f"{measured}: the best of {len(others) + 1} finished trials is better than all others by more than this noise"
    )
