"""What a sweep would run into, before it starts: networks that do not exist, and its time."""

from __future__ import annotations

import logging

from moco_ray.config import Config
from moco_ray.config.field_paths import with_values
from moco_ray.driver.estimate import measure_step
from moco_ray.driver.plan import stream_spec
from moco_ray.storage.storage import StorageOptions
from moco_ray.sweep.space import Space
from moco_ray.sweep.state import SweepState
from moco_ray.tasks.job import Job
from moco_ray.tasks.known import task_of
from moco_ray.worker.progress import duration

log = logging.getLogger(__name__)


def check_networks(space: Space, config: Config, num_rows: int) -> None:
    """Make sure that each network of the space exists and takes the images.

    Raises:
        ValueError: One does not.
    """
    for dimension in space:
        if dimension.path.split(".")[0] not in ("model", "views"):
            continue
        for value in [dimension.at(0.0), dimension.at(1.0)] if dimension.is_range else dimension.options:
            try:
                task_of(config).resolve(with_values(config, {dimension.path: value}), num_rows)
            except ValueError as error:
                raise ValueError(f"--space {dimension.describe()}: {error}") from error


def say_time(state: SweepState, at_once: int) -> None:
    """Measure a step of the base configuration here, and say what that makes of the whole sweep.

    Args:
        state: The sweep.
        at_once: Trials that run at the same time.
    """
    config, train_rows, trials = state.resolved, state.train_rows, state.num_trials
    if config.task != "pretraining":  # whose steps are the only ones that can be tried without images
        return
    task = task_of(config)
    job = Job(
        task=task,
        config=config,
        spec=stream_spec(task, config),
        num_rows=len(train_rows),
        manifest_digest=state.manifest.digest,
        last_step=state.last_step,
        run_uri="",
        run_options=StorageOptions({}),
        initial_weights=None,
        eval_set=state.eval_set,
        uses_gpu=False,
        lease_owner="",
    )
    trial_s = measure_step(job, train_rows[: config.optim.global_batch_size]) * job.last_step
    rounds = -(-trials // at_once)
    log.info(
        f"time, estimated from a step on the CPUs of this machine: {duration(trial_s)} a trial, {duration(trial_s * rounds)} "
        f"for {trials} with {at_once} at once, without evaluations; GPUs, or trials that are stopped early, take less"
    )
