"""Start the workers of a run: on Ray, or inside this process."""

from __future__ import annotations

import os

import torch

from moco_ray.cluster.visible import check_visible
from moco_ray.cluster.worker_group import run_on_ray
from moco_ray.cluster.workers import Workers
from moco_ray.driver.plan import Plan
from moco_ray.run_folder.begin import CONFIG
from moco_ray.run_folder.lease import StepDone
from moco_ray.tasks.job import Job, Outcome
from moco_ray.worker.loop import train
from moco_ray.worker.runtime import LocalRuntime, Pulse, compute_threads


def launch(plan: Plan, job: Job, workers: Workers, pulse: Pulse, before: StepDone | None) -> Outcome:
    """Train with so many workers, or in this process where there are to be none.

    Args:
        plan: The run.
        job: What its workers are told.
        workers: How many, with what.
        pulse: Is kept up with the newest step.
        before: The newest step of an attempt that was stopped.

    Raises:
        ValueError: A node does not see the run's folder, or the images.
        RunFailed: The workers failed again and again.
    """
    if workers.most > 0:
        run = plan.run
        check_visible(run.join(CONFIG) if run.protocol == "file" else None, plan.config, plan.images.train)
        return run_on_ray(job, plan.source, workers, pulse, before)
    given = os.environ.get("OMP_NUM_THREADS", "")  # fewer where several such processes share a machine
    torch.set_num_threads(min(int(given) if given.isdecimal() else 2**30, compute_threads(1)))
    return train(job, LocalRuntime(spec=job.spec, source=plan.source, pulse=pulse, before=before))
