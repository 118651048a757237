"""What follows a run: the curves of TensorBoard and the report, always, and whatever else was asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from moco_ray.storage.storage import Storage
from moco_ray.tasks.job import Job
from moco_ray.worker.follower import Follower
from moco_ray.worker.followers import Followers
from moco_ray.worker.live_report import LiveReport
from moco_ray.worker.runtime import Runtime
from moco_ray.worker.tensorboard import Curves
from moco_ray.worker.trackers.follower import TrackerFollower


def followers_of(job: Job, run: Storage, step: int, runtime: Runtime, num_interruptions: int, dtype: str) -> Followers:
    """The followers of a run that goes on from a step; its folder holds nothing of later ones."""
    makers: dict[str, Callable[[], Follower]] = {
        "TensorBoard": lambda: Curves(job.run_uri, job.run_options, step),
        "the report": lambda: LiveReport(job, run, runtime.num_ranks, dtype),
    }
    makers.update(runtime.followers(job, num_interruptions))
    for access in job.trackers:
        makers[access.title] = partial(TrackerFollower, access, job, run, step)
    return Followers(makers)
