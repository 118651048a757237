"""What a finished sweep leaves: the best configuration as a preset and as a command, and a report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from moco_ray.config import Config, from_json, to_json
from moco_ray.driver.failure import RunFailed
from moco_ray.run_folder.begin import CONFIG
from moco_ray.sweep.noise import describe_noise, untrained_value
from moco_ray.sweep.progress import shorten
from moco_ray.sweep.records import Record, best_of
from moco_ray.sweep.state import SweepState

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
    from moco_ray.sweep.report import report_page  # here, because matplotlib takes half a second to import

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
