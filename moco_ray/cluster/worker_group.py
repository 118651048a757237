"""A group of Ray Train workers for a run: as many as are useful and possible at any time, until the run ends."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from moco_ray.cluster.connection import only_our_lines
from moco_ray.cluster.notes import Notes, RunNotes
from moco_ray.cluster.ray_worker import RayRuntime
from moco_ray.cluster.spilling import watch_spilling
from moco_ray.cluster.workers import Workers
from moco_ray.config.run import data_label
from moco_ray.data.blocks import Source
from moco_ray.data.stream import LONGEST_STALL_S
from moco_ray.run_folder.lease import StepDone
from moco_ray.storage.keys import sharing
from moco_ray.tasks.failure import RunFailed
from moco_ray.tasks.job import Job, Outcome
from moco_ray.worker.loop import train
from moco_ray.worker.runtime import Pulse, compute_threads

if TYPE_CHECKING:
    from ray import ObjectRef

    from moco_ray.cluster.elastic import ElasticTrainer

_COLLECTIVE_TIMEOUT_S = int(LONGEST_STALL_S + 300)  # a dead peer is noticed, a slow storage is waited for
_CONTROLLER_DEATHS = 3

log = logging.getLogger(__name__)


def run_on_ray(job: Job, source: Source, workers: Workers, pulse: Pulse, before: StepDone | None) -> Outcome:
    """Train with a group of Ray Train workers, and start its controller again where that dies.

    Args:
        job: What they are told.
        source: Where their images come from.
        workers: How many, with what.
        pulse: Is kept up with the newest step.
        before: The newest step of an attempt that was stopped.

    Raises:
        RunFailed: The workers failed again and again.
    """
    import ray
    from ray.data._internal.stats import get_or_create_stats_actor
    from ray.train.v2.api.exceptions import TrainingFailedError

    from moco_ray.cluster.elastic import describe

    # Ray Data's actor for statistics stays for good where it is first asked for: on a worker's node, that node would
    # never be idle and its cloud would bill it for ever.
    get_or_create_stats_actor()
    notes, run_notes = Notes(uuid.uuid4().hex), RunNotes(hashlib.sha256(job.run_uri.encode()).hexdigest())
    worker = _Worker(
        # Both hold credentials or much data: they travel through the object store, which nothing prints.
        job=ray.put(job),
        source=ray.put(source),
        notes=notes,
        data_label=data_label(job.config.run),
        before=run_notes.begin_attempt(notes, before),
    )
    access = [job.run_options, source.options, job.eval_set.queries.options]
    access += [job.eval_set.bank.options] if job.eval_set.bank is not None else []
    with (
        only_our_lines(for_good="RAY_ADDRESS" not in os.environ),
        notes.followed_by(pulse),
        sharing(options.key_ring() for options in access),
    ):
        deaths, stood_at = 0, -1
        while True:
            try:
                outcome: Outcome = _trainer(worker, job, workers, run_notes).fit().return_value  # type: ignore[attr-defined]
                return outcome
            except TrainingFailedError as error:
                raise RunFailed(f"the workers failed: {describe(error)}") from error
            except ray.exceptions.RayActorError as error:
                started_from = notes.last_start()
                deaths, stood_at = (deaths + 1 if started_from == stood_at else 1), started_from
                if deaths == _CONTROLLER_DEATHS:
                    raise RunFailed(
                        f"Ray Train's controller died {deaths} times in a row without a newly committed step: {error}"
                    ) from error
                log.info("Ray Train's controller died: starting it again")
                notes.note_cause("Ray Train's controller died")
            except ray.exceptions.RayError as error:
                raise RunFailed(f"the Ray cluster failed: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class _Worker:
    """What each worker runs."""

    job: ObjectRef[Job]
    source: ObjectRef[Source]
    notes: Notes
    data_label: dict[str, str] | None
    before: StepDone | None

    def run(self) -> Outcome:
        import ray.train

        from moco_ray.cluster.elastic import log_in_worker

        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")  # its successor would sync our BN shares
        context = ray.train.get_context()
        log_in_worker(says=context.get_world_rank() == 0)
        job: Job = ray.get(self.job)
        torch.set_num_threads(compute_threads(context.get_local_world_size()))
        runtime = RayRuntime(
            spec=job.spec,
            source=self.source,
            uses_gpu=job.uses_gpu,
            notes=self.notes,
            data_label=self.data_label,
            before=self.before,
            rank=context.get_world_rank(),
            num_ranks=context.get_world_size(),
        )
        if runtime.rank == 0:
            watch_spilling()
        try:
            return train(job, runtime)
        except ValueError as error:  # other ranks may wait for this one: fail, and let the next group say why
            self.notes.note_user_error(str(error))
            raise


def _trainer(worker: _Worker, job: Job, workers: Workers, run_notes: RunNotes) -> ElasticTrainer:
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchConfig
    from ray.train.v2.api.config import ScalingConfig

    from moco_ray.cluster.elastic import ElasticTrainer

    run = job.config.run
    return ElasticTrainer(
        worker.run,
        num_groups=job.config.optim.bn_groups,
        label=worker.data_label,
        notes=worker.notes,
        run_notes=run_notes,
        torch_config=TorchConfig(timeout_s=_COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=(workers.fewest, workers.most),
            use_gpu=workers.uses_gpu,
            resources_per_worker=workers.resources,
            elastic_resize_monitor_interval_s=run.resize_every_s,
        ),
        run_config=RunConfig(
            name=run.name,
            # Ray's own bookkeeping; the run's folder holds all that resuming needs.
            storage_path=str(
                Path(tempfile.gettempdir()) / "moco_ray_bookkeeping" / f"{os.getpid()}-{worker.notes.owner}"
            ),
            failure_config=FailureConfig(max_failures=-1),  # the workers count those without progress
        ),
    )
