"""Pretraining from the driver's side: check everything, then train, then say what there is."""

from __future__ import annotations

import contextlib
import logging
import shlex
import time
from collections.abc import Callable

from moco_ray.cluster.connection import disconnect, is_connected
from moco_ray.cluster.workers import choose_workers
from moco_ray.config import Config
from moco_ray.driver.failure import RunFailed
from moco_ray.driver.finished import RunResult as RunResult
from moco_ray.driver.finished import finished_run
from moco_ray.driver.images.kept import adopt
from moco_ray.driver.launch import run_in_this_process, run_on_ray
from moco_ray.driver.naming import forget_claims, take_name
from moco_ray.driver.paths import check_paths, check_visible
from moco_ray.driver.plan import folder_of, prepare, with_name
from moco_ray.run_folder.begin import CONFIG, found_run
from moco_ray.run_folder.checkpoint_files import checkpoint_steps
from moco_ray.run_folder.lease import Lease, hold_run
from moco_ray.run_folder.metrics import join_parts
from moco_ray.storage.checks import check_writable
from moco_ray.storage.storage import Storage, StorageOptions, resolve_storage_options
from moco_ray.tasks.job import Job, Outcome
from moco_ray.weights.encoder_file import load_encoder
from moco_ray.worker.console import said_by
from moco_ray.worker.runtime import Pulse

log = logging.getLogger(__name__)
_STOPPED = "stopped; the command at the top resumes this run from its last checkpoint"
_FIRST_RETRY_PAUSE_S, _LONGEST_RETRY_PAUSE_S = 10.0, 300.0


def pretrain(config: Config, *, say: Callable[[str], None] = print, resume_command: str | None = None) -> RunResult:
    """Pretrain an encoder, or go on with the run of that name.

    Args:
        config: What to train on what, where.
        say: Prints a line for the user.
        resume_command: The command that continues this run, for the first line; {name} stands for its name.

    Raises:
        ValueError: Something that the user must mend; nothing was lost.
        RunFailed: The cluster failed again and again; the same call goes on.
        OSError: The storage did, likewise.
    """
    with said_by(say):
        check_paths(config)
        config = with_name(take_name(config))
        name = str(config.run.name)
        command = (resume_command or "call moco_ray.pretrain again with run.name {name}").format(name=shlex.quote(name))
        log.info(f"run {name}; to resume it: {command}")
        try:
            return _attempts(config)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_STOPPED) from None


def _attempts(config: Config) -> RunResult:
    pulse = Pulse()
    is_ours = not is_connected()  # a connection of the caller's stays
    for attempt in range(config.run.retries + 1):
        try:
            return _attempt(config, pulse, is_first=attempt == 0)
        except (RunFailed, OSError) as error:
            if attempt == config.run.retries:
                raise
            pause_s = min(_FIRST_RETRY_PAUSE_S * 2**attempt, _LONGEST_RETRY_PAUSE_S)
            log.info(f"{error}")
            log.info(f"trying again in {pause_s:.0f} s (retry {attempt + 1} of run.retries {config.run.retries})")
            time.sleep(pause_s)
            if is_ours and is_connected():
                disconnect()
    raise AssertionError


def _attempt(config: Config, pulse: Pulse, *, is_first: bool) -> RunResult:
    """Go on with the run from where its folder stands, to its end."""
    run_options = resolve_storage_options(config.run.storage_path, config.run.storage_options)
    folder = folder_of(config, run_options)
    run = Storage.open(folder, run_options)
    if is_first:  # later on, a folder that cannot be written to has failed: it is no mistake of the user
        check_writable(run)
    log.info(f"results go to {folder}")
    with hold_run(run, lambda: pulse.newest) as lease:
        forget_claims(run)
        return _train(config, folder, run, run_options, lease, pulse, is_first=is_first)


def _train(
    config: Config,
    folder: str,
    run: Storage,
    run_options: StorageOptions,
    lease: Lease,
    pulse: Pulse,
    *,
    is_first: bool,
) -> RunResult:
    ready = prepare(config, folder, run)
    config, source = ready.config, ready.source
    goes_on = ready.old is not None and not (ready.kept and (ready.kept.changes or ready.kept.begins_anew))
    if goes_on and (result := finished_run(config, run, folder, len(source.train_rows))) is not None:
        return result
    try:
        workers = choose_workers(config)
    except ValueError as error:
        if is_first:
            raise
        raise RunFailed(f"the cluster is not what it was: {error}") from error
    if ready.kept is not None and ready.old is not None:
        adopt(run, ready.kept, ready.old, config)
    job = ready.job(run, folder, run_options, uses_gpu=workers.uses_gpu, lease_owner=lease.owner)
    if ready.old is None:
        found_run(run, config, ready.images)
    start = time.monotonic()
    try:
        if workers.most == 0:
            outcome = run_in_this_process(job, source, pulse, lease.before)
        else:
            check_visible(run.join(CONFIG) if run.protocol == "file" else None, config, ready.images.train)
            outcome = run_on_ray(job, source, workers, pulse, lease.before)
    except KeyboardInterrupt:
        _leave(run, folder)
        raise
    return _conclude(outcome, job, run, time.monotonic() - start, config.run.storage_options)


def _leave(run: Storage, folder: str) -> None:
    """Of a run that is stopped: join its metrics where that is quick, and say how to use what there is."""
    with contextlib.suppress(Exception):  # whoever stops a run wants it to end
        if run.protocol == "file":
            run.write_bytes(run.join("metrics.jsonl"), join_parts(run))
        if checkpoint_steps(run):
            log.info(f"to use what it has learned so far: python jobs/export.py {shlex.quote(folder)}")


def _conclude(outcome: Outcome, job: Job, run: Storage, seconds: float, storage_options: str | None) -> RunResult:
    if outcome.error is not None:
        raise ValueError(outcome.error)
    if outcome.failure is not None:
        raise RunFailed(outcome.failure)
    encoder = f"{job.run_uri}/encoder.safetensors"
    from moco_ray.report.run_report import illustrate  # here, because matplotlib takes half a second to import

    try:
        pictures = illustrate(job.config, run, load_encoder(encoder, storage_options), job.eval_set)
        log.info(f"pictures: {', '.join(run.uri(path) for path in pictures)}")
    except Exception as error:  # a picture is no reason to lose a finished run
        log.warning(f"the pictures could not be drawn ({type(error).__name__}: {error})")
    log.info(f"done: {outcome.step:,} steps, {seconds:,.0f} s in this session; results in {job.run_uri}")
    log.info("to use the encoder:")
    log.info("    import moco_ray")
    log.info(f"    encoder = moco_ray.load_encoder({encoder!r})")
    log.info("    features = encoder(images)  # images: (N, 3, H, W), standardised as moco_ray.encoder_info says")
    return RunResult(folder=job.run_uri, encoder=encoder, step=outcome.step, metrics=outcome.summary or {})
