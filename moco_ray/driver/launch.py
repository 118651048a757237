"""Start the workers of a run: on Ray, or inside this process."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from moco_ray.cluster.worker_group import run_on_ray
from moco_ray.data.blocks import Source
from moco_ray.run_folder.lease import StepDone
from moco_ray.tasks.job import Job, Outcome
from moco_ray.worker.loop import train
from moco_ray.worker.runtime import LocalRuntime, Pulse, compute_threads

__all__ = ["run_in_this_process", "run_on_ray"]

Say = Callable[[str], None]


def run_in_this_process(job: Job, source: Source, pulse: Pulse, before: StepDone | None, say: Say) -> Outcome:
    """Train with one worker, without Ray."""
    given = os.environ.get("OMP_NUM_THREADS", "")  # fewer where several such processes share a machine
    torch.set_num_threads(min(int(given) if given.isdecimal() else 2**30, compute_threads(1)))
    return train(job, LocalRuntime(spec=job.spec, source=source, pulse=pulse, before=before), say)
