"""What a finished sweep leaves: the best configuration as a preset and as a command, and one page that says why."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from moco_ray.config import Config, from_json, to_json
from moco_ray.driver.failure import RunFailed
from moco_ray.run_folder.begin import CONFIG
from moco_ray.sweep.noise import describe_noise, untrained_value
from moco_ray.sweep.progress import number, shorten
from moco_ray.sweep.records import Record, best_of
from moco_ray.sweep.space import Space
from moco_ray.sweep.state import SweepState

BEST, REPORT = "best.json", "report.html"
_SHOWN_REASONS = 3
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22272e; max-width: 66rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.1rem; margin-top: 2.2rem }
p.note { color: #6b7684; margin-top: .2rem }
pre { background: #f4f6f8; padding: .8rem; overflow-x: auto; white-space: pre-wrap; word-break: break-word }
table { border-collapse: collapse; font-size: .85rem } td, th { padding: .2rem .7rem; text-align: right }
th { border-bottom: 1px solid #c3c9d1 } td.left, th.left { text-align: left } tr.best { background: #fdecea }
.picture { width: 100%; height: auto } .scroll { overflow-x: auto }
"""


def report_page(
    *,
    name: str,
    records: Sequence[Record],
    best: Record,
    space: Space,
    metric: str,
    command: str,
    preset: str,
    encoder: str,
) -> str:
    """The page.

    Args:
        name: Of the sweep.
        records: All trials; at least the best one has a value.
        best: The best one.
        space: What was searched.
        metric: What was maximised.
        command: The best configuration as a command.
        preset: Path of best.json.
        encoder: Path of the best trial's encoder.
    """
    from moco_ray.sweep.pictures import (  # here, because matplotlib takes half a second to import
        cost_picture,
        curves_picture,
        parallel_picture,
        parameters_picture,
    )

    seconds = sum(record.seconds for record in records)
    images = sum(_own_images(record, records) for record in records)
    counts = ", ".join(
        f"{count} {text}"
        for state, text in (("finished", "finished"), ("stopped", "stopped early"), ("failed", "failed"))
        if (count := sum(record.state == state for record in records))
    )
    is_population = any(record.parent for record in records)
    note = (
        "It is a copy of other trials: what it was trained with before is in its folder's lineage.jsonl, and a run with these "
        "values from the start is another run."
        if best.parent
        else "The same command gives the same encoder."
    )
    untrained, noise = untrained_value(records), describe_noise(records, best, metric)
    before = f" The untrained encoder has {untrained:.4g}." if untrained is not None else ""
    spread = [record.value for record in records if record.state == "finished" and record.value is not None]
    parts = [
        f"<h1>{escape(name)}</h1>",
        f"<p class=note>{len(records)} trials: {counts}. {images:,} images in {seconds:,.0f} s of trials.</p>",
        f"<h2>Best: {escape(best.name)}, {escape(metric)} {best.value:.4g}</h2>",
        f"<p class=note>Finished trials lie between {min(spread):.4g} and {max(spread):.4g}.{before} {note}</p>",
        f"<p class=note>{escape(noise)}.</p>" if noise else "",
        f"<pre>{escape(command)}</pre>",
        f"<pre>python jobs/pretrain.py --preset {escape(preset)}</pre>",
        f"<pre>encoder = moco_ray.load_encoder({escape(repr(encoder))})</pre>",
        "<h2>All trials</h2>",
        "<p class=note>A line is a trial, from its parameters to its value; red is the best, dashed were stopped early.</p>",
        parallel_picture(records, best, space, metric),
        f"<h2>{escape(metric)} against each parameter</h2>",
        "<p class=note>Filled: finished. Hollow: stopped early, so measured after fewer images.</p>",
        parameters_picture(records, best, space, metric),
        "<h2>Learning curves</h2>",
        "<p class=note>Green: finished. Yellow, with a cross: stopped early. Red: the best.</p>",
        curves_picture(records, best, metric),
        "<h2>Cost</h2>",
        cost_picture(records, best),
        "<h2>Numbers</h2>",
        _table(records, best, space, metric, is_population),
    ]
    title = f"<title>{escape(name)}</title><meta charset=utf-8><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{title}</head><body>{''.join(parts)}</body></html>\n"


def _own_images(record: Record, records: Sequence[Record]) -> int:
    """Images that a trial saw itself: a copy does not repeat what its parent did."""
    if not record.parent or not record.points:
        return record.images
    parent = next(other for other in records if other.name == record.parent)
    inherited = [point.position for point in parent.points if point.position < record.points[0].position]
    return record.images - max(inherited, default=0)


def _table(records: Sequence[Record], best: Record, space: Space, metric: str, is_population: bool) -> str:
    names = ["trial", "state", *(["copy of"] if is_population else [])]
    head = "".join(f"<th class=left>{name}</th>" for name in names)
    head += "".join(f"<th>{escape(name)}</th>" for name in [*(d.path for d in space), metric, "images", "seconds"])
    rows = []
    ranked = sorted(
        records, key=lambda r: (r.state != "finished", -(r.value if r.value is not None else float("-inf")))
    )
    for record in ranked:
        left = [record.name, record.state, *([record.parent] if is_population else [])]
        right = [number(record.parameters[dimension.path]) for dimension in space]
        right += ["" if record.value is None else f"{record.value:.4g}", f"{record.images:,}", f"{record.seconds:,.0f}"]
        cells = "".join(f"<td class=left>{escape(text)}</td>" for text in left)
        cells += "".join(f"<td>{escape(text)}</td>" for text in right)
        cells += f"<td class=left>{escape(record.reason)}</td>" if record.reason else ""
        rows.append(f"<tr{' class=best' if record is best else ''}>{cells}</tr>")
    return f"<div class=scroll><table><tr>{head}</tr>{''.join(rows)}</table></div>"


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
    """The best trial's encoder, for `moco_ray.load_encoder`."""
    records: tuple[Record, ...]
    """All trials."""


def conclude(state: SweepState, config: Config, command: Sequence[str]) -> SweepResult:
    """Write and say what was found.

    Args:
        state: The sweep.
        config: What the user asked for, with the workers of a run of its own.
        command: Arguments of jobs/pretrain.py that make it.

    Raises:
        RunFailed: No trial has a result.
    """
    storage, say, records = state.storage, state.say, state.ledger.in_order()
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
        command=best_command(command, best.parameters),
        encoder=f"{state.uri}/{best.name}/encoder.safetensors",
        records=tuple(records),
    )

    page = report_page(
        name=storage.root.rsplit("/", 1)[-1],
        records=records,
        best=best,
        space=state.space,
        metric=state.metric,
        command=result.command,
        preset=result.preset,
        encoder=result.encoder,
    )
    storage.write_bytes(storage.join(REPORT), page.encode())
    say(f"done: {_counts(records)}; {sum(record.seconds for record in records):,.0f} s of trials")
    say(f"best: {best.name} with {state.metric} {best.value:.4g}: {shorten(best.parameters)}")
    if (untrained := untrained_value(records)) is not None:
        say(f"    the untrained encoder has {untrained:.4g}")
    if (noise := describe_noise(records, best, state.metric)) is not None:
        say(f"    {noise}")
    say(f"as a preset: python jobs/pretrain.py --preset {result.preset}")
    say(f"as a command: {result.command}")
    say(f"its encoder: moco_ray.load_encoder({result.encoder!r})")
    say(f"why: {storage.uri(storage.join(REPORT))}")
    return result


def best_command(command: Sequence[str], parameters: dict[str, Any]) -> str:
    """The command of an ordinary run with these parameters."""
    values = [part for path, value in parameters.items() for part in (f"--{path.replace('_', '-')}", text_of(value))]
    return shlex.join(["python", "jobs/pretrain.py", *command, *values])


def text_of(value: Any) -> str:
    """A value as a flag takes it, in full precision."""
    return json.dumps(value) if isinstance(value, float) else str(value)


def _counts(records: Sequence[Record]) -> str:
    states = ("finished", "stopped", "failed")
    counts = {state: sum(record.state == state for record in records) for state in states}
    names = {"finished": "finished", "stopped": "stopped early", "failed": "failed"}
    return ", ".join(f"{number} {names[state]}" for state, number in counts.items() if number)
