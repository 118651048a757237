"""A run that has ended well, and what it left."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass

from moco_ray.config import Config
from moco_ray.driver.images.listing import last_step
from moco_ray.run_folder.checkpoint import CheckpointStore
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.storage.storage import Storage

log = logging.getLogger(__name__)
_FILES = ("encoder.safetensors", "metrics.jsonl", "eval.jsonl")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run."""

    folder: str
    """The run's folder."""
    encoder: str
    """The encoder's file, for `moco_ray.load_encoder`."""
    step: int
    """Steps done in all."""
    metrics: dict[str, float]
    """Last values of all metrics."""


def finished_run(config: Config, run: Storage, folder: str, num_rows: int) -> RunResult | None:
    """What a run left that has nothing more to do; None if it must go on, or has not yet written all it leaves.

    Args:
        config: Of the run.
        run: Its folder.
        folder: The same, for messages.
        num_rows: Images that it trains on.
    """
    if not all(run.exists(run.join(name)) for name in _FILES):
        return None
    bad = run.join("bad_images.jsonl")
    num_bad = len(run.read_bytes(bad).splitlines()) if run.exists(bad) else 0
    if num_bad > config.data.max_bad_fraction * num_rows:
        return None  # whoever goes on looks whether they are good now, and refuses
    end = last_step(config, num_rows)
    try:
        lines, evaluations = stored_lines(run, "metrics.jsonl"), stored_lines(run, "eval.jsonl")
    except ValueError:
        return None  # the checkpoint holds both, and the end of the run writes them anew
    done = len(lines)  # more than are asked for now, if --run.max-steps was lowered
    is_whole = done >= end and any(line["step"] == done for line in evaluations)
    if not is_whole or CheckpointStore(storage=run).newest() != done:
        return None
    encoder = f"{folder}/encoder.safetensors"
    further = (
        f"It ended at --run.max-steps {done}, before its {config.optim.epochs:g} epochs: a higher one goes on"
        if done < config.optim.num_steps(num_rows)
        else f"To train longer, begin another run (--run.name) with more than --optim.epochs {config.optim.epochs:g}, from "
        f"this encoder if you like: --model.init {shlex.quote(encoder)}"
    )
    log.info(f"this run is finished: all of its {done:,} steps are done, and nothing is left to do. {further}")
    log.info(f"done: {done:,} steps; results in {folder}")
    values = {**lines[-1], **evaluations[-1]}
    metrics = {name: float(value) for name, value in values.items() if "/" in name}
    return RunResult(folder=folder, encoder=encoder, step=done, metrics=metrics)
