"""A step whose loss was not finite, done once more under observation: from the last checkpoint on, in the same order."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from moco_ray.core.batch import Batch
from moco_ray.core.finite import OutputWatch, Passed, gradients_not_finite, largest, weights_not_finite
from moco_ray.data.stream import Stream
from moco_ray.run_folder.checkpoint import State, checkpoint_name
from moco_ray.tasks.arithmetic import fast_arithmetic
from moco_ray.tasks.job import Job
from moco_ray.tasks.learner import Learner
from moco_ray.worker.runtime import Runtime

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a rank has found out; plain values."""

    text: str
    """A sentence for the user."""
    name: str | None = None
    """The module, or the tensor of the state, that was first not finite."""
    is_of_this_rank: bool = False
    """Whether it is so for this rank's images; else it may be so for those of others."""
    details: dict[str, Any]
    """Statistics, for the file."""


def look_at_batch(job: Job, runtime: Runtime, step: int, why: str) -> tuple[Finding, Batch]:
    """Only make the batch of a step again. All ranks must call."""
    for loaded in _stream(job, runtime, step, step):
        return Finding(text=why, details={}), loaded.batch
    raise AssertionError


def replay(job: Job, runtime: Runtime, step: int, restored: State | None) -> tuple[Finding, Batch]:
    """Do the steps up to one again, and that one under observation. All ranks must call.

    Args:
        job: Of the run.
        runtime: Where it runs.
        step: The step.
        restored: The checkpoint to begin from; None: the beginning.

    Returns:
        What was found, and this rank's part of the batch that is to blame, on the CPU.
    """
    first = 0 if restored is None else int(restored["step"])
    config = replace(job.config, run=replace(job.config.run, compile=False))  # to look into modules
    learner = replace(job, config=config).task.build(replace(job, config=config), restored)
    del restored
    before: Batch | None = None
    said_s = time.monotonic()
    with fast_arithmetic(learner.device, learner.dtype):
        for loaded in _stream(job, runtime, first, step):
            batch = loaded.batch
            if batch.step == first and runtime.num_ranks > 1 and job.uses_gpu:
                learner.try_memory(batch.to(learner.device))
            if batch.step == step:
                return _observe(job, learner, batch, before, first)
            _do_step(job, learner, batch)
            before = batch
            if time.monotonic() - said_s >= job.patience.line:
                said_s = time.monotonic()
                log.info(f"done again: {batch.step + 1 - first:,} of {step + 1 - first:,} steps")
    raise AssertionError


def _observe(job: Job, learner: Learner, batch: Batch, before: Batch | None, first: int) -> tuple[Finding, Batch]:
    """Look at what the step begins with, and then at what each module puts out."""
    weights, gradients = weights_not_finite(learner.module), gradients_not_finite(learner.module)
    scale = learner.scaler.get_scale() if learner.scaler.is_enabled() else None
    with OutputWatch(network=learner.module) as watch:
        loss = float(_do_step(job, learner, batch)["train/loss"])
    seen = watch.first
    details = {
        "loss_again": str(loss),
        "weights_not_finite": weights,
        "gradients_not_finite": gradients,
        "first_module": asdict(seen) if seen else None,
        "modules_before": [asdict(passed) for passed in watch.before],
        "loss_scale": scale,
    }
    if weights:
        blamed = batch if before is None else before
        text = _words_of_weights(job, weights, gradients, first, batch.step, seen)
        return Finding(text=text, name=weights[0], details=details), blamed
    if seen is not None:
        text = _words_of_module(seen)
        return Finding(text=text, name=seen.name, is_of_this_rank=True, details=details), batch
    if math.isfinite(loss):
        cause = (
            "what run.compile makes of the network"
            if job.config.run.compile
            else "arithmetic that differs from time to time"
        )
        text = (
            f"done again from {_start(first)}, this step has a loss of {loss:.4g}: the cause is not in the images and "
            f"weights alone, but in {cause}"
        )
        return Finding(text=text, details=details), batch
    return Finding(
        text="all outputs of the network are finite, and the loss that is made of them is not", details=details
    ), batch


def _words_of_weights(
    job: Job, weights: list[str], gradients: list[str], first: int, step: int, seen: Passed | None
) -> str:
    """Since when the weights are not finite."""
    others = f" and {len(weights) - 1} more" if len(weights) > 1 else ""
    so = f", and so the output of {seen.name} ({seen.kind})" if seen else ""
    if step == first:
        back = "; delete its folder to go back to the one before" if first else ""
        return f"{weights[0]}{others} is not finite in {_start(first)}{so}{back}"
    lr, _ = job.schedule_at(step - 1)
    if gradients:
        return f"the gradient of {gradients[0]} in step {step - 1} was not finite, though its loss was{so}"
    return (
        f"the update of step {step - 1}, at a learning rate of {lr:.3g}, made {weights[0]}{others} infinite or nan{so}"
    )


def _words_of_module(seen: Passed) -> str:
    """The module, and how large the numbers were that it computed with."""
    name = f"{seen.name} ({seen.kind})"
    if seen.is_input:
        return f"the first that is not finite is what goes into {name}"
    given, weights = largest(seen.given), largest(seen.weights.values())
    says = "" if given is None else f", which was given numbers up to {given:.3g}"
    says += "" if weights is None else f", has weights up to {weights:.3g}"
    gives = f" and gives {seen.put_out[0]['dtype']}" if says else ""
    return f"the first that is not finite is the output of {name}{says}{gives}"


def _start(first: int) -> str:
    return checkpoint_name(first) if first else "the weights to start from"


def _do_step(job: Job, learner: Learner, batch: Batch) -> dict[str, float | int]:
    lr, progress = job.schedule_at(batch.step)
    return learner.step(batch.to(learner.device), lr=lr, progress=progress).values()


def _stream(job: Job, runtime: Runtime, first: int, step: int) -> Stream:
    return Stream(
        spec=job.spec,
        first_step=first,
        last_step=step + 1,
        rank=runtime.rank,
        num_ranks=runtime.num_ranks,
        open_segment=runtime.open_segment,
    )
