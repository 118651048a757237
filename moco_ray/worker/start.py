"""Where a group of workers starts: the newest checkpoint that is whole, or an end at once."""

from __future__ import annotations

import socket

from moco_ray.config import experiment_differences, from_json
from moco_ray.core import collectives
from moco_ray.run_folder.checkpoint import CheckpointStore, State, state_of
from moco_ray.storage.storage import Storage
from moco_ray.tasks.job import Job, Outcome
from moco_ray.tasks.learner import worker_device
from moco_ray.worker.runtime import Runtime

_MAX_STARTS_WITHOUT_PROGRESS = 3


def check_visible(storage: Storage) -> None:
    """Make sure that this node sees the run's folder.

    Raises:
        ValueError: It does not.
    """
    if not storage.exists(storage.join("config.json")):
        raise ValueError(
            f"{storage.uri(storage.root)} cannot be seen from the node {socket.gethostname()}, where a worker runs; "
            "use a run.storage-path that all nodes share, such as s3://bucket/runs"
        )


def choose_start(store: CheckpointStore, runtime: Runtime, cause: str | None) -> tuple[int | None, Outcome | None]:
    """Rank 0 chooses the checkpoint to start from, or how this group of workers ends at once."""
    if (message := runtime.user_error()) is not None:
        return None, Outcome(step=0, error=message)
    newest, failure = None, None
    try:
        newest = store.newest()
    except OSError as error:  # counted as a start, so that storage that stays away ends the run at some time
        failure = error
    if runtime.starts_without_progress(newest or 0) > _MAX_STARTS_WITHOUT_PROGRESS:
        reason = (
            f"the workers failed {_MAX_STARTS_WITHOUT_PROGRESS} times in a row without committing a step after "
            f"{newest or 0}, the last time because of this: {cause}. Ray's logs hold the whole error; the same command "
            "resumes the run"
        )
        return newest, Outcome(step=newest or 0, failure=reason)
    if failure is not None:
        raise failure
    return newest, None


def restore(step: int, store: CheckpointStore, job: Job, runtime: Runtime) -> State:
    """A checkpoint that rank 0 reads and sends to all. All ranks must call."""
    content = store.content(step) if runtime.rank == 0 else None
    return state_of(collectives.bytes_from_rank_zero(content, worker_device(job.uses_gpu)))


def explain_mismatch(job: Job, restored: State | None) -> str | None:
    """Why a checkpoint does not belong to this run, or why it cannot start without one."""
    init = job.config.model.init
    if restored is None:
        is_lost = init is not None and job.initial_weights is None
        return f"no checkpoint is whole, and model.init {init} cannot be read to start anew" if is_lost else None
    step = restored["step"]
    if restored["manifest_digest"] not in (job.manifest_digest, *job.former_digests):
        return (
            f"the checkpoint of step {step} was trained on other images than manifest.parquet lists; put the old "
            "manifest.parquet back, or use another --run.name"
        )
    differences = experiment_differences(from_json(restored["config"]), job.config)
    return f"the checkpoint of step {step} is of another experiment: {'; '.join(differences)}" if differences else None
