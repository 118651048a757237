"""Start the workers of a run: on Ray, or inside this process."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import uuid
import warnings
from pathlib import Path

import torch

from moco_ray.cluster.connection import only_our_lines
from moco_ray.cluster.notes import Notes, follow, newest_step, read_starts
from moco_ray.cluster.ray_worker import RayRuntime
from moco_ray.cluster.spilling import watch_spilling
from moco_ray.cluster.workers import Workers
from moco_ray.config.run import data_label
from moco_ray.data.blocks import Source
from moco_ray.data.stream import LONGEST_STALL_S
from moco_ray.driver.failure import RunFailed
from moco_ray.run_folder.lease import StepDone
from moco_ray.storage.keys import sharing
from moco_ray.tasks.job import Job, Outcome
from moco_ray.worker.loop import train
from moco_ray.worker.runtime import LocalRuntime, Pulse

log = logging.getLogger(__name__)
_COLLECTIVE_TIMEOUT_S = int(LONGEST_STALL_S + 300)  # a dead peer is noticed, a slow storage is waited for
_CONTROLLER_DEATHS = 3


def run_in_this_process(job: Job, source: Source, pulse: Pulse, before: StepDone | None) -> Outcome:
    """Train with one worker, without Ray."""
    given = os.environ.get("OMP_NUM_THREADS", "")  # fewer where several such processes share a machine
    torch.set_num_threads(min(int(given) if given.isdecimal() else 2**30, _compute_threads(1)))
    return train(job, LocalRuntime(spec=job.spec, source=source, pulse=pulse, before=before))


def run_on_ray(job: Job, source: Source, workers: Workers, pulse: Pulse, before: StepDone | None) -> Outcome:
    """Train with a group of Ray Train workers, as many as are useful and possible at any time.

    Raises:
        RunFailed: The workers failed again and again.
    """
    import ray
    from ray.data._internal.stats import get_or_create_stats_actor
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchConfig
    from ray.train.v2.api.config import ScalingConfig
    from ray.train.v2.api.exceptions import TrainingFailedError

    from moco_ray.cluster.elastic import ElasticTrainer, describe, log_in_worker

    # Ray Data's actor for statistics stays for good where it is first asked for: on a worker's node, that node would
    # never be idle and its cloud would bill it for ever.
    get_or_create_stats_actor()
    # Both hold credentials or much data: they travel through the object store, which nothing prints.
    job_reference, source_reference = ray.put(job), ray.put(source)
    label, notes = data_label(job.config.run), Notes(uuid.uuid4().hex)
    run_notes = Notes(hashlib.sha256(job.run_uri.encode()).hexdigest())
    before = newest_step(before, notes, run_notes)

    def worker() -> Outcome:
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")  # its successor would sync our BN shares
        context = ray.train.get_context()
        log_in_worker(says=context.get_world_rank() == 0)
        own_job: Job = ray.get(job_reference)
        torch.set_num_threads(_compute_threads(context.get_local_world_size()))
        runtime = RayRuntime(
            spec=own_job.spec,
            source=source_reference,
            uses_gpu=own_job.uses_gpu,
            notes=notes,
            data_label=label,
            before=before,
            rank=context.get_world_rank(),
            num_ranks=context.get_world_size(),
        )
        if runtime.rank == 0:
            watch_spilling()
        try:
            return train(own_job, runtime)
        except ValueError as error:  # other ranks may wait for this one: fail, and let the next group say why
            notes.write("user_error", str(error))
            raise

    def trainer() -> ElasticTrainer:
        run = job.config.run
        return ElasticTrainer(
            worker,
            num_groups=job.config.optim.bn_groups,
            label=label,
            notes=notes,
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
                storage_path=str(Path(tempfile.gettempdir()) / "moco_ray_bookkeeping" / f"{os.getpid()}-{notes.owner}"),
                failure_config=FailureConfig(max_failures=-1),  # the workers count those without progress
            ),
        )

    access = [job.run_options, source.options, job.eval_set.queries.options]
    access += [job.eval_set.bank.options] if job.eval_set.bank is not None else []
    with (
        only_our_lines(for_good="RAY_ADDRESS" not in os.environ),
        follow(notes, pulse),
        sharing(options.key_ring() for options in access),
    ):
        deaths, stood_at = 0, -1
        while True:
            try:
                outcome: Outcome = trainer().fit().return_value  # type: ignore[attr-defined]
                return outcome
            except TrainingFailedError as error:
                raise RunFailed(f"the workers failed: {describe(error)}") from error
            except ray.exceptions.RayActorError as error:
                started_from, _ = read_starts(notes)
                deaths, stood_at = (deaths + 1 if started_from == stood_at else 1), started_from
                if deaths == _CONTROLLER_DEATHS:
                    raise RunFailed(
                        f"Ray Train's controller died {deaths} times in a row without a newly committed step: {error}"
                    ) from error
                log.info("Ray Train's controller died: starting it again")
                notes.write("cause", "Ray Train's controller died")
            except ray.exceptions.RayError as error:
                raise RunFailed(f"the Ray cluster failed: {type(error).__name__}: {error}") from error


def _compute_threads(workers_here: int) -> int:
    """Threads of each worker's arithmetic: one core is left to the data, whose tasks would stall all the others."""
    return max(1, ((os.cpu_count() or 1) - 1) // workers_here)
