"""A run that has ended well, and what it left."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass

from moco_ray.driver.plan import Plan
from moco_ray.run_folder.checkpoint import CheckpointStore
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.weights.encoder_file import NAME

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run."""

    folder: str
    """The run's folder."""
    encoder: str
    """The encoder's file, for `moco_ray.load_encoder`; empty where the run leaves none, as a linear probe."""
    step: int
    """Steps done in all."""
    metrics: dict[str, float]
    """Last values of all metrics."""


def result_of(plan: Plan, step: int, metrics: dict[str, float]) -> RunResult:
    """What a run has come to after so many steps."""
    encoder = f"{plan.folder}/{NAME}" if NAME in plan.task.results else ""
    return RunResult(folder=plan.folder, encoder=encoder, step=step, metrics=metrics)


def finished_run(plan: Plan) -> RunResult | None:
    """What a run left that has nothing more to do; None if it must go on, or has not yet written all it leaves."""
    config, run, folder = plan.config, plan.run, plan.folder
    if not all(run.exists(run.join(name)) for name in ("metrics.jsonl", "eval.jsonl", *plan.task.results)):
        return None
    bad = run.join("bad_images.jsonl")
    num_bad = len(run.read_bytes(bad).splitlines()) if run.exists(bad) else 0
    if num_bad > config.data.max_bad_fraction * plan.num_rows:
        return None  # whoever goes on looks whether they are good now, and refuses
    try:
        lines, evaluations = stored_lines(run, "metrics.jsonl"), stored_lines(run, "eval.jsonl")
    except ValueError:
        return None  # the checkpoint holds both, and the end of the run writes them anew
    done = len(lines)  # more than are asked for now, if --run.max-steps was lowered
    is_whole = done >= plan.last_step and any(line["step"] == done for line in evaluations)
    if not is_whole or CheckpointStore(storage=run).newest() != done:
        return None
    values = {**lines[-1], **evaluations[-1]}
    result = result_of(plan, done, {name: float(value) for name, value in values.items() if "/" in name})
    start = f", from this encoder if you like: --model.init {shlex.quote(result.encoder)}" if result.encoder else ""
    further = (
        f"It ended at --run.max-steps {done}, before its {config.optim.epochs:g} epochs: a higher one goes on"
        if done < config.optim.num_steps(plan.num_rows)
        else f"To train longer, begin another run (--run.name) with more than --optim.epochs {config.optim.epochs:g}"
        f"{start}"
    )
    log.info(f"this run is finished: all of its {done:,} steps are done, and nothing is left to do. {further}")
    log.info(f"done: {done:,} steps; results in {folder}")
    return result
