"""Whole runs on W real ranks without Ray: the driver and the workers' loop as they are, gloo processes as the cluster."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch.distributed as dist

from moco_ray.config import Config
from moco_ray.data.blocks import Block, Source
from moco_ray.data.segments import local_segment
from moco_ray.driver import run as driver
from moco_ray.driver.plan import Plan
from moco_ray.run_folder.lease import StepDone
from moco_ray.tasks.job import Job, Outcome
from moco_ray.tasks.pretraining import PRETRAINING
from moco_ray.tasks.task import Task
from moco_ray.worker.loop import train
from moco_ray.worker.runtime import LocalRuntime, Pulse, T
from tests.core.ranks import run_beside_ranks

Say = Callable[[str], None]


def quiet(line: str) -> None:
    """Say nothing."""


@dataclass(kw_only=True)
class GlooRuntime(LocalRuntime):
    """One of several workers on this machine; each makes the data for itself."""

    def from_rank_zero(self, value: T) -> T:
        """Rank 0's value. All ranks must call."""
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def open_segment(self, first_step: int, last_step: int) -> Iterator[Block]:
        """This rank's blocks: block k of the segment is of rank k mod W."""
        blocks = local_segment(self.spec, self.source, first_step, last_step)
        try:
            yield from itertools.islice(blocks, self.rank, None, self.num_ranks)
        finally:
            blocks.close()


def pretrain_on_ranks(config: Config, num_ranks: int, say: Say = quiet) -> Path:
    """Pretrain as `pretrain` does, on so many ranks where it would train in this process; returns the run's folder."""
    return train_on_ranks(PRETRAINING, config, num_ranks, say)


def train_on_ranks(task: Task, config: Config, num_ranks: int, say: Say = quiet) -> Path:
    """Train what a task says, likewise. Rank 0 is this process."""

    def launch(plan: Plan, job: Job, workers: object, pulse: Pulse, before: StepDone | None) -> Outcome:
        return run_beside_ranks(num_ranks, _train, job, plan.source, pulse, before)

    config = replace(config, run=replace(config.run, num_workers=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "launch", launch)
        return Path(driver.train(task, config, say=say).folder)


def _train(job: Job, source: Source, pulse: Pulse, before: StepDone | None) -> Outcome:
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    runtime = GlooRuntime(spec=job.spec, source=source, pulse=pulse, before=before, rank=rank, num_ranks=num_ranks)
    return train(job, runtime)
