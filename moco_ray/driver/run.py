"""A run from its driver's side: check everything, then train, then say what there is."""

from __future__ import annotations

import contextlib
import logging
import shlex
import time
from collections.abc import Callable

from moco_ray.cluster.connection import disconnect
from moco_ray.cluster.store import is_connected
from moco_ray.cluster.workers import Workers, choose_workers
from moco_ray.config import Config
from moco_ray.config.patience import USUAL_PATIENCE, Patience
from moco_ray.config.programs import spoken
from moco_ray.driver.finished import RunResult as RunResult
from moco_ray.driver.finished import finished_run, result_of
from moco_ray.driver.images.kept import adopt
from moco_ray.driver.launch import launch
from moco_ray.driver.naming import forget_claims, take_name
from moco_ray.driver.paths import check_paths
from moco_ray.driver.plan import Plan, make_plan, open_run, with_name
from moco_ray.driver.report import begin_report, end_report, mend_report, stop_report
from moco_ray.driver.trackers import track_finished
from moco_ray.run_folder.begin import begin_run
from moco_ray.run_folder.checkpoint_files import checkpoint_steps
from moco_ray.run_folder.end import end_on_record, forget_end
from moco_ray.run_folder.lease import Lease, hold_run
from moco_ray.run_folder.metrics import join_parts
from moco_ray.storage.checks import check_writable
from moco_ray.tasks.failure import RunFailed
from moco_ray.tasks.job import Job, Outcome
from moco_ray.tasks.pretraining import PRETRAINING
from moco_ray.tasks.task import Task
from moco_ray.worker.console import said_by
from moco_ray.worker.runtime import Pulse

log = logging.getLogger(__name__)
_STOPPED = "stopped; the command at the top resumes this run from its last checkpoint"
_LONGEST_RETRY_PAUSE_S = 300.0


def pretrain(
    config: Config,
    *,
    say: Callable[[str], None] = print,
    resume_command: str | None = None,
    patience: Patience = USUAL_PATIENCE,
) -> RunResult:
    """Pretrain an encoder, or go on with the run of that name.

    Args:
        config: What to train on what, where.
        say: Prints a line for the user.
        resume_command: The command that continues this run, for the first line; {name} stands for its name.
        patience: How long to wait for what may never come.

    Raises:
        ValueError: Something that the user must mend; nothing was lost.
        RunFailed: The cluster failed again and again; the same call goes on.
        OSError: The storage did, likewise.
    """
    return train(PRETRAINING, config, say=say, resume_command=resume_command, patience=patience)


def train(
    task: Task,
    config: Config,
    *,
    say: Callable[[str], None] = print,
    resume_command: str | None = None,
    patience: Patience = USUAL_PATIENCE,
) -> RunResult:
    """Train what a task says, or go on with the run of that name; arguments and errors as of `pretrain`."""
    with said_by(say):
        check_paths(config)
        config = with_name(take_name(config))
        name = str(config.run.name)
        command = (resume_command or "call moco_ray.pretrain again with run.name {name}").format(name=shlex.quote(name))
        log.info(f"run {name}; to resume it: {command}")
        try:
            return _attempts(task, config, patience, command if resume_command else None)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_STOPPED) from None


def _attempts(task: Task, config: Config, patience: Patience, command: str | None) -> RunResult:
    pulse = Pulse()
    is_ours = not is_connected()  # a connection of the caller's stays
    for attempt in range(config.run.retries + 1):
        try:
            return _attempt(task, config, pulse, patience, command, is_first=attempt == 0)
        except (RunFailed, OSError) as error:
            if attempt == config.run.retries:
                raise
            pause_s = min(patience.retry * 2**attempt, _LONGEST_RETRY_PAUSE_S)
            log.info(f"{error}")
            log.info(f"trying again in {pause_s:.0f} s (retry {attempt + 1} of run.retries {config.run.retries})")
            time.sleep(pause_s)
            if is_ours and is_connected():
                disconnect()
    raise AssertionError


def _attempt(
    task: Task, config: Config, pulse: Pulse, patience: Patience, command: str | None, *, is_first: bool
) -> RunResult:
    """Go on with the run from where its folder stands, to its end."""
    run = open_run(config)
    if is_first:  # later on, a folder that cannot be written to has failed: it is no mistake of the user
        check_writable(run)
    log.info(f"results go to {run.uri(run.root)}")
    with hold_run(run, lambda: pulse.newest, patience) as lease:
        forget_claims(run)
        plan = make_plan(task, config, run, patience)
        if plan.goes_on and (result := finished_run(plan)) is not None:
            forget_end(run)
            mend_report(plan)
            track_finished(plan.job(uses_gpu=False, lease_owner=lease.owner), run)
            return result
        return _train(plan, lease, pulse, command, is_first=is_first)


def _train(plan: Plan, lease: Lease, pulse: Pulse, command: str | None, *, is_first: bool) -> RunResult:
    """Train to the last step, and say what there is."""
    try:
        workers = choose_workers(plan.config)
    except ValueError as error:
        if is_first:
            raise
        raise RunFailed(f"the cluster is not what it was: {error}") from error
    if plan.kept is not None and plan.old is not None:
        adopt(plan.run, plan.kept, plan.old, plan.config)
    job = plan.job(uses_gpu=workers.uses_gpu, lease_owner=lease.owner)
    if plan.old is None:
        begin_run(plan.run, plan.config, plan.images)
    report = begin_report(plan, workers, command, lease.owner)
    start = time.monotonic()
    try:
        outcome, usage = _to_the_end(plan, job, workers, lease, pulse)
    except BaseException as error:
        stop_report(plan, report, error)
        raise
    log.info(
        f"done: {outcome.step:,} steps, {time.monotonic() - start:,.0f} s in this session; results in {plan.folder}"
    )
    end_report(plan, report)
    for line in usage:
        log.info(line)
    return result_of(plan, outcome.step, outcome.summary or {})


def _to_the_end(plan: Plan, job: Job, workers: Workers, lease: Lease, pulse: Pulse) -> tuple[Outcome, list[str]]:
    """Train, and conclude; how it ended otherwise is on record."""
    options = (plan.run.options, plan.source.options)
    with end_on_record(plan.run, lease, lambda: pulse.newest, options):
        try:
            outcome = launch(plan, job, workers, pulse, lease.before)
        except KeyboardInterrupt:
            _leave(plan)
            raise
        if outcome.error is not None:
            raise ValueError(outcome.error)
        if outcome.failure is not None:
            raise RunFailed(outcome.failure)
        return outcome, plan.task.conclude(job, plan.run)


def _leave(plan: Plan) -> None:
    """Of a run that is stopped: join its metrics where that is quick, and say how to use what there is."""
    run = plan.run
    with contextlib.suppress(Exception):  # whoever stops a run wants it to end
        if run.protocol == "file":
            run.write_bytes(run.join("metrics.jsonl"), join_parts(run))
        if checkpoint_steps(run):
            log.info(f"to use what it has learned so far: {spoken('export')} {shlex.quote(plan.folder)}")
