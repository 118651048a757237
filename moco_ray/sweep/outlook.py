"""What a sweep would run into, before it starts: networks that do not exist, and its time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moco_ray.config import Config
from moco_ray.data.manifest import Manifest
from moco_ray.data.storage import StorageOptions
from moco_ray.evaluate.monitor import EvalSet
from moco_ray.sweep.fields import with_values
from moco_ray.sweep.space import Space
from moco_ray.train.estimate import measure_step
from moco_ray.train.job import Job
from moco_ray.train.plan import last_step, resolve
from moco_ray.train.prepare import stream_spec
from moco_ray.train.progress import duration


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
                resolve(with_values(config, {dimension.path: value}), num_rows)
            except ValueError as error:
                raise ValueError(f"--space {dimension.describe()}: {error}") from error


def say_time(
    config: Config,
    manifest: Manifest,
    train_rows: NDArray[np.int64],
    eval_set: EvalSet,
    *,
    trials: int,
    at_once: int,
    say: Callable[[str], None],
) -> None:
    """Measure a step of the base configuration here, and say what that makes of the whole sweep.

    Args:
        config: With every automatic value decided.
        manifest: The images.
        train_rows: Those that training sees.
        eval_set: Those to evaluate on.
        trials: Number of trials.
        at_once: Trials that run at the same time.
        say: Prints a line for the user.
    """
    job = Job(
        config=config,
        spec=stream_spec(config),
        num_rows=len(train_rows),
        held_out_rows=manifest.other_rows(train_rows),
        manifest_digest=manifest.digest,
        last_step=last_step(config, len(train_rows)),
        run_uri="",
        run_options=StorageOptions({}),
        initial_weights=None,
        eval_set=eval_set,
        uses_gpu=False,
        lease_owner="",
    )
    trial_s = measure_step(job, train_rows[: config.optim.global_batch_size]) * job.last_step
    rounds = -(-trials // at_once)
    say(
        f"time, estimated from a step on the CPUs of this machine: {duration(trial_s)} a trial, {duration(trial_s * rounds)} "
        f"for {trials} with {at_once} at once, without evaluations; GPUs, or trials that are stopped early, take less"
    )
