"""Look before training: what a run would be, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from moco_ray.cluster.workers import choose_workers, trains_here
from moco_ray.config import Config
from moco_ray.driver.estimate import measure_size, measure_step
from moco_ray.driver.images.sample import Sample, look_at_sample
from moco_ray.driver.memory import free_memory
from moco_ray.driver.paths import check_paths
from moco_ray.driver.plan import Plan, make_plan, open_run, with_name
from moco_ray.driver.preset_costs import costs_of_presets, say_costs
from moco_ray.storage.checks import check_writable
from moco_ray.storage.storage import Storage, resolve_storage_options
from moco_ray.tasks.job import Job
from moco_ray.tasks.learner import worker_device
from moco_ray.tasks.task import Task
from moco_ray.worker.console import said_by
from moco_ray.worker.progress import duration

log = logging.getLogger(__name__)


def dry_run(task: Task, config: Config, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Check all that a run checks before it trains, and say what it would be, of pretraining also what it would cost.

    Leaves nothing behind, and returns the estimates.

    Raises:
        ValueError: The run would refuse this.
    """
    with said_by(say):
        config = with_name(config)
        check_paths(config)
        options = resolve_storage_options(config.run.storage_path, config.run.storage_options)
        _check_writable(Storage.open(config.run.storage_path, options))
        plan = make_plan(task, config, open_run(config))
        known = plan.images.train.table["num_bytes"].to_numpy()
        if (known >= 0).all():
            log.info(f"size: {known.sum() / 1e6:,.1f} MB")
        sample = look_at_sample(plan.config, plan.source)
        uses_gpu = False
        if trains_here(config.run):
            uses_gpu = choose_workers(config).uses_gpu
        else:
            log.info(
                "the workers are chosen on the cluster when the run starts: whether it has them is not checked here"
            )
        _say_experiment(plan)
        if config.task != "pretraining":
            return {}
        return _say_cost(plan, plan.job(uses_gpu=uses_gpu, lease_owner=""), sample)


def _check_writable(root: Storage) -> None:
    """Make sure that the run's folder could be made, without making it.

    Raises:
        ValueError: It could not.
    """
    if root.protocol != "file":
        check_writable(root)
        return
    place = Path(root.root)
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ValueError(
            f"run.storage-path {root.root} cannot be written to ({place}: {error.strerror}); use another folder"
        ) from error


def _say_experiment(plan: Plan) -> None:
    """Name what is trained, how, and how long."""
    config, num_rows = plan.config, plan.num_rows
    optim, model = config.optim, config.model
    projector = ""
    if config.task == "pretraining":
        log.info(f"method: {config.method.name}; {_fields(config.method)}")
        projector = f", projector {model.projector} to {model.dim} numbers"
    init = f", beginning from {model.init}" if model.init else ""
    sides = config.detection.min_px if config.task == "detection" else (config.views.crop_px,)
    px = "-".join(str(side) for side in sorted({min(sides), max(sides)}))
    log.info(f"network: {model.arch}{projector}, images of {px} px{init}")
    log.info(
        f"optimizer: {optim.optimizer}, effective learning rate {optim.effective_lr:g}, {optim.schedule} a "
        f"{optim.schedule_per}, weight decay {optim.weight_decay:g}; run.dtype {config.run.dtype}"
    )
    log.info(
        f"run: {num_rows:,} images, {optim.epochs:g} epochs of {num_rows / optim.global_batch_size:,.1f} steps; "
        f"{plan.last_step:,} steps of {optim.global_batch_size} images in {optim.bn_groups} BatchNorm groups; "
        f"evaluated every {config.eval.every_steps:,} steps"
    )


def _fields(settings: object) -> str:
    """Fields of a dataclass for people."""
    values = {item.name: getattr(settings, item.name) for item in dataclasses.fields(settings)}  # type: ignore[arg-type]
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items() if value is not None)


def _say_cost(plan: Plan, job: Job, sample: Sample) -> dict[str, Any]:
    """Say what the run would take, as far as this machine can tell; returns the same as numbers."""
    config = plan.config
    size = measure_size(config, job.num_rows, worker_device(job.uses_gpu))
    log.info(
        f"checkpoint: about {size.checkpoint / 1e6:,.0f} MB ({size.parameters / 1e6:.1f} million weights in the encoder)"
    )
    one_group = f", {(size.training + size.activations) / 1e9:,.1f} GB with one BatchNorm group at a time"
    log.info(
        f"memory, estimated: {(size.training + size.all_activations) / 1e9:,.1f} GB for one worker with all of the batch"
        f"{one_group if size.can_be_cut else '; in micro-batches it cannot be trained'}"
    )
    network_s = measure_step(job, plan.source.train_rows[: config.optim.global_batch_size])
    if job.uses_gpu and torch.cuda.is_available():
        torch.cuda.empty_cache()  # what that step took is free again
    cores = max(1, (os.cpu_count() or 1) - (not job.uses_gpu))
    data_s = sample.seconds_an_image * config.optim.global_batch_size / cores
    step_s = max(network_s, data_s)
    log.info(
        f"time, estimated here with one worker on {'a GPU' if job.uses_gpu else 'the CPU'}: {_seconds(step_s)} a step (network "
        f"{_seconds(network_s)}, images {_seconds(data_s)} beside it), {duration(step_s * job.last_step)} in all and evaluations"
    )
    device = worker_device(job.uses_gpu)
    costs = costs_of_presets(
        config,
        job.num_rows,
        sample.median_px,
        device,
        flops_per_s=size.flops / network_s,
        seconds_an_image=sample.seconds_an_image / cores,
    )
    for line in say_costs(costs, config, size, device):
        log.info(line)
    return {
        "images": job.num_rows,
        "median_px": sample.median_px,
        "steps": job.last_step,
        "step_s": step_s,
        "network_s": network_s,
        "data_s": data_s,
        "checkpoint_bytes": size.checkpoint,
        "free_memory_bytes": free_memory(device),
        "presets": [{**dataclasses.asdict(cost), "fits": cost.fits} for cost in costs],
    }


def _seconds(seconds: float) -> str:
    return duration(seconds) if seconds >= 10 else f"{seconds:.2g} s"
