"""Start the workers of a run: on Ray, or inside this process."""

from __future__ import annotations

import os
import tempfile
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from moco_ray.config import Config
from moco_ray.data.blocks import Source
from moco_ray.train.cluster import OUR_MARK, connect, only_our_lines
from moco_ray.train.job import Job, Outcome
from moco_ray.train.notes import Notes
from moco_ray.train.place import RayTrainWorker, ThisProcess
from moco_ray.train.worker import train

Say = Callable[[str], None]


class RunFailed(RuntimeError):
    """The workers failed again and again, for no reason that a user's input explains."""


def choose_workers(config: Config, say: Say) -> tuple[int, bool]:
    """Decide on how many workers and whether on GPUs; connects to Ray if there are to be workers at all.

    Raises:
        ValueError: The cluster does not have what was asked for.
    """
    run = config.run
    if run.num_workers == 0:
        uses_gpu = run.device == "cuda" or (run.device == "auto" and torch.cuda.is_available())
        if uses_gpu and not torch.cuda.is_available():
            raise ValueError("run.device is cuda, but torch finds no GPU here; use --run.device cpu")
        return 0, uses_gpu
    resources = connect(run.num_workers or 1, say)
    gpus = int(resources.get("GPU", 0))
    uses_gpu = run.device == "cuda" or (run.device == "auto" and gpus > 0)
    if uses_gpu and (run.num_workers or 1) > gpus:
        raise ValueError(
            f"run.num-workers {run.num_workers or 1} on GPUs, but the cluster has {gpus}; use fewer workers or "
            "--run.device cpu"
        )
    workers = run.num_workers or (min(gpus, config.optim.bn_groups) if uses_gpu else 1)
    return workers, uses_gpu


def run_in_this_process(job: Job, source: Source, say: Say) -> Outcome:
    """Train with one worker, without Ray."""
    torch.set_num_threads(_compute_threads(1))
    return train(job, ThisProcess(spec=job.spec, source=source), say)


def run_on_ray(job: Job, source: Source, workers: int, say: Say) -> Outcome:
    """Train with a group of Ray Train workers.

    Raises:
        ValueError: The cluster cannot hold the workers and a slot for data.
        RunFailed: The workers failed again and again.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    resources = {"CPU": _cpus_per_worker(job.config, workers), **({"GPU": 1.0} if job.uses_gpu else {})}
    # Both hold credentials or much data: they travel through the object store, which nothing prints.
    job_reference, source_reference = ray.put(job), ray.put(source)
    notes = Notes(uuid.uuid4().hex)

    def worker() -> Outcome:
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")  # its successor would sync our BN shares
        context = ray.train.get_context()
        own_job: Job = ray.get(job_reference)
        torch.set_num_threads(_compute_threads(context.get_local_world_size()))
        place = RayTrainWorker(
            spec=own_job.spec,
            source=source_reference,
            uses_gpu=own_job.uses_gpu,
            notes=notes,
            rank=context.get_world_rank(),
            num_ranks=context.get_world_size(),
        )
        try:
            return train(own_job, place, _say_from_worker)
        except ValueError as error:  # other ranks may wait for this one: fail, and let the next group say why
            notes.write("user_error", str(error))
            raise

    say(f"starting {workers} worker{'s' if workers > 1 else ''} on {'GPUs' if job.uses_gpu else 'CPUs'}")
    trainer = TorchTrainer(
        worker,  # type: ignore[arg-type]
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=job.uses_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=job.config.run.name,
            # Ray's own bookkeeping; the run's folder holds all that resuming needs.
            storage_path=str(Path(tempfile.gettempdir()) / "moco_ray_bookkeeping" / str(os.getpid())),
            failure_config=FailureConfig(max_failures=-1),  # the workers count those without progress
        ),
    )
    with only_our_lines(say, for_good="RAY_ADDRESS" not in os.environ):
        try:
            outcome: Outcome = trainer.fit().return_value  # type: ignore[attr-defined]
        except TrainingFailedError as error:
            raise RunFailed(f"the workers failed: {error}") from error
    return outcome


def _compute_threads(workers_here: int) -> int:
    """Threads of each worker's arithmetic: one core is left to the data, whose tasks would stall all the others."""
    return max(1, ((os.cpu_count() or 1) - 1) // workers_here)


def _cpus_per_worker(config: Config, workers: int) -> float:
    """Logical CPUs for each worker, so that Ray Data keeps at least one.

    Raises:
        ValueError: Nothing would be left for data.
    """
    import ray

    total = ray.cluster_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
    asked = config.run.cpus_per_worker
    each = asked if asked is not None else min(1.0, max(0.0, (total - 1) / workers))
    if each <= 0 or (asked is not None and workers * asked > total - 1):
        raise ValueError(
            f"{workers} workers with {each:g} CPUs each leave no CPU for reading images on a cluster of {total:g} CPUs; "
            "lower run.cpus-per-worker or run.num-workers"
        )
    return each


def _say_from_worker(line: str) -> None:
    print(f"{OUR_MARK}{line}", flush=True)
