"""A loss that is not finite ends a run: why, as far as can be found out, and what is kept to look at."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import torch.distributed as dist

from moco_ray.core import collectives
from moco_ray.core.batch import Batch
from moco_ray.core.precision import autocast_of
from moco_ray.run_folder.checkpoint import CheckpointStore, State
from moco_ray.run_folder.checkpoint_files import read_verified
from moco_ray.run_folder.debug import FOUND, debug_folder, write_batch, write_found
from moco_ray.run_folder.lease import check_lease
from moco_ray.storage.storage import Storage
from moco_ray.tasks.job import Job
from moco_ray.worker.recorder import Recorder
from moco_ray.worker.replay import Finding, look_at_batch, replay
from moco_ray.worker.runtime import Runtime
from moco_ray.worker.start import restore

log = logging.getLogger(__name__)

T = TypeVar("T")


class LossNotFinite(Exception):
    """The loss of a step, which every rank knows, is not finite."""

    def __init__(self, step: int, loss: float, steps_per_s: float) -> None:
        super().__init__(f"the loss of step {step} is {loss}")
        self.step, self.loss, self.steps_per_s = step, loss, steps_per_s


def explain(
    failed: LossNotFinite, job: Job, runtime: Runtime, recorder: Recorder, dtype: str, group: dist.ProcessGroup | None
) -> str:
    """Say why, and keep the batch, its rows and what was found in debug/step_<N>/. All ranks must call.

    Whatever goes wrong here, the loss is what is told.

    Raises:
        ValueError: With what is to be told: this rank could not go on, and others may wait for it.
    """
    text = runtime.from_rank_zero(_text(failed, job, recorder, dtype) if runtime.rank == 0 else "")
    try:
        finding, batch = _look(failed, job, runtime, recorder)
    except Exception as error:
        log.warning(f"where it comes from could not be found out ({type(error).__name__}: {error})")
        if runtime.num_ranks > 1:
            raise ValueError(text) from error
        return text
    findings = _gathered(finding, group)
    bad = [rank for rank, one in enumerate(findings) if one.is_of_this_rank]
    is_kept = True
    if not bad or runtime.rank in bad:
        is_kept = _keep(failed, job, runtime, finding, batch)
    kept = [rank for rank, one in enumerate(_gathered(is_kept, group)) if one and (not bad or rank in bad)]
    told = findings[bad[0]] if bad else findings[0]
    ranks = f"rank{'s' if len(bad) > 1 else ''} {', '.join(map(str, bad))}"
    of_rank = f" ({ranks} of {runtime.num_ranks})" if bad and runtime.num_ranks > 1 else ""
    found = f"{told.text}{of_rank}"
    storage = Storage.open(job.run_uri, job.run_options)
    if runtime.rank == 0:
        _write_found(storage, failed, job, [text, found])
    where = f"; the batch, its images and {FOUND} are in {debug_folder(storage, failed.step)}" if kept else ""
    return f"{text}. Looked into: {found}{where}"


def _text(failed: LossNotFinite, job: Job, recorder: Recorder, dtype: str) -> str:
    try:
        good = recorder.last_checkpoint_text()
    except (OSError, ValueError) as error:
        good = f"The checkpoint that was due could not be written ({error}). "
    if failed.step == 0:
        return f"{failed}, before anything was learned: {job.task.explain_first_nan(job.config, dtype)}"
    wider = " or run.dtype float32" if autocast_of(dtype) else ""
    return f"{failed}: training has diverged. {good}A lower optim.lr, a warm-up (optim.warmup-epochs){wider} often cures it"


def _look(failed: LossNotFinite, job: Job, runtime: Runtime, recorder: Recorder) -> tuple[Finding, Batch]:
    """Do the steps since the last checkpoint again, if that takes no longer than anybody would wait."""
    step, why, content = failed.step, None, None
    first = recorder.saved_step()
    if runtime.rank == 0:
        seconds = (step + 1 - (first or 0)) / max(failed.steps_per_s, 1e-9)
        if seconds > job.patience.replay:
            why = (
                f"the {step + 1 - (first or 0):,} steps since the last checkpoint would take about {seconds:,.0f} s to do "
                "again, and so nothing was found out about the cause"
            )
        elif first is not None:
            why, content = _content(job, first)
    first, why = runtime.from_rank_zero((first, why))
    if why is not None:
        return look_at_batch(job, runtime, step, why)
    log.info(
        f"the loss of step {step:,} is {failed.loss}: looking for where it comes from, from step {first or 0:,} on"
    )
    restored: State | None = None if first is None else restore(content, job)
    return replay(job, runtime, step, restored)


def _content(job: Job, step: int) -> tuple[str | None, bytes | None]:
    """The bytes of a checkpoint, or why they cannot be had."""
    try:
        store = CheckpointStore(storage=Storage.open(job.run_uri, job.run_options))
        return None, read_verified(store.storage, step)
    except (OSError, ValueError) as error:
        return f"the checkpoint of step {step:,} cannot be read ({error}), and so nothing was found out", None


def _keep(failed: LossNotFinite, job: Job, runtime: Runtime, finding: Finding, batch: Batch) -> bool:
    """Write this rank's part of the batch, if that can be done."""
    lr, progress = job.schedule_at(batch.step)
    says: dict[str, Any] = {
        "failed_step": failed.step,
        "loss": str(failed.loss),
        "step": batch.step,
        "rank": runtime.rank,
        "num_ranks": runtime.num_ranks,
        "found": finding.text,
        "name": finding.name,
        "lr": lr,
        "progress": progress,
        "temperature": job.config.method.temperature if job.config.task == "pretraining" else None,
        "dtype": job.config.run.dtype,
        "places_in_batch": batch.own_rows().tolist(),
        "places_of_key_views": batch.shuffled_rows().tolist(),
        **finding.details,
    }
    arrays = {name: array.cpu().numpy() for name, array in batch.arrays.items()}
    try:
        storage = Storage.open(job.run_uri, job.run_options)
        check_lease(storage, job.lease_owner)
        write_batch(storage, failed.step, runtime.rank, arrays, batch.rows, says)
    except Exception as error:
        log.warning(f"the batch of step {batch.step:,} could not be kept ({type(error).__name__}: {error})")
        return False
    return True


def _write_found(storage: Storage, failed: LossNotFinite, job: Job, lines: list[str]) -> None:
    try:
        check_lease(storage, job.lease_owner)
        write_found(storage, failed.step, lines)
    except Exception as error:
        log.warning(f"{FOUND} could not be written ({type(error).__name__}: {error})")


def _gathered(value: T, group: dist.ProcessGroup | None) -> list[T]:
    """One value of each rank, on all. All ranks must call."""
    if collectives.world_size() == 1:
        return [value]
    values: list[T] = [value] * collectives.world_size()
    dist.all_gather_object(values, value, group)
    return values
