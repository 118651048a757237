"""The training loop of one worker."""

from __future__ import annotations

import logging
import math
import socket
import time
from dataclasses import dataclass, field, fields, replace

import torch
import torch.distributed as dist

from moco_ray.config import experiment_differences, from_json
from moco_ray.core import collectives
from moco_ray.core.agreement import copy_from_rank_zero, ranks_agree
from moco_ray.core.precision import has_bfloat16
from moco_ray.core.step_result import StepResult
from moco_ray.data.stream import BadRow, Loaded, Stream, StreamError
from moco_ray.run_folder.checkpoint import CheckpointStore, State, state_of
from moco_ray.storage.storage import Storage
from moco_ray.tasks.arithmetic import fast_arithmetic, words
from moco_ray.tasks.job import Job, Outcome
from moco_ray.tasks.learner import Learner, worker_device
from moco_ray.worker.measured import Measured, Pace
from moco_ray.worker.recorder import FolderRecorder, Recorder
from moco_ray.worker.runtime import LEAVING, Runtime

log = logging.getLogger(__name__)
_MAX_STARTS_WITHOUT_PROGRESS = 3
_LOOK_EVERY_S = 5.0  # longest time in which a group does not hear that it must save
_WAIT_TO_BE_STOPPED_S = 30.0


class _UserError(Exception):
    """Something that every rank saw and that trying again would not mend."""


class NodeLeaving(Exception):
    """A node of the group is being taken away: everything is saved, and the next group starts without it."""


def train(job: Job, runtime: Runtime) -> Outcome:
    """Train from the newest checkpoint, or from the start, to the last step. All ranks must call.

    Args:
        job: What to do.
        runtime: Where it is done.
    """
    storage = Storage.open(job.run_uri, job.run_options)
    _check_visible(storage)
    store = CheckpointStore(
        storage=storage,
        keep_last=job.config.run.keep_last,
        keep_every_steps=job.config.run.keep_every_steps,
    )
    before = runtime.group_before() if runtime.rank == 0 else None
    cause = before[0] if before else None
    newest, refusal = runtime.from_rank_zero(
        _choose_start(store, runtime, cause) if runtime.rank == 0 else (None, None)
    )
    if refusal:
        return refusal
    start = newest or 0
    restored = None if newest is None else _restored(newest, store, job, runtime)
    if mismatch := _mismatch(job, restored):
        return Outcome(step=start, error=mismatch)
    learner = job.task.build(job, restored)
    recorder = Recorder()
    if runtime.rank == 0:
        recorder = FolderRecorder(job, store, restored, start, runtime, before)
    del restored
    _say_devices(job, learner)
    loop = _Loop(job=job, runtime=runtime, learner=learner, step=start, recorder=recorder)
    try:
        with fast_arithmetic(learner.device, learner.dtype):
            loop.run()
    except (_UserError, StreamError) as error:
        return Outcome(step=loop.step, error=str(error))
    return Outcome(step=loop.step, summary=recorder.summary())


def _check_visible(storage: Storage) -> None:
    """Make sure that this node sees the run's folder.

    Raises:
        ValueError: It does not.
    """
    if not storage.exists(storage.join("config.json")):
        raise ValueError(
            f"{storage.uri(storage.root)} cannot be seen from the node {socket.gethostname()}, where a worker runs; "
            "use a run.storage-path that all nodes share, such as s3://bucket/runs"
        )


def _choose_start(store: CheckpointStore, runtime: Runtime, cause: str | None) -> tuple[int | None, Outcome | None]:
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


def _restored(step: int, store: CheckpointStore, job: Job, runtime: Runtime) -> State:
    """A checkpoint that rank 0 reads and sends to all. All ranks must call."""
    content = store.content(step) if runtime.rank == 0 else None
    return state_of(collectives.bytes_from_rank_zero(content, worker_device(job.uses_gpu)))


def _mismatch(job: Job, restored: State | None) -> str | None:
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


@dataclass(kw_only=True)
class _Loop:
    """Steps, and at intervals a look at what they measured."""

    job: Job
    runtime: Runtime
    learner: Learner
    step: int
    recorder: Recorder
    _next_sync: int = field(default=0, init=False)
    _polled_s: float = field(default_factory=time.monotonic, init=False)
    _copies: torch.cuda.Stream | None = field(default=None, init=False)
    """Where batches are copied to a GPU."""
    _copied: tuple[State | None] | None = field(default=None, init=False)
    """The copy of the state after this step, once there is one; None on ranks that keep none."""
    _between_hosts: dist.ProcessGroup | None = field(default_factory=collectives.host_group, init=False)
    """Over which ranks agree, so that no look waits for a GPU."""

    def run(self) -> None:
        self._stop_if_too_many_are_bad()
        if self.step < self.job.last_step:
            self._train()
        self.recorder.finish(self.step, self._state())

    def _train(self) -> None:
        job, runtime = self.job, self.runtime
        self.recorder.begin()
        stream = Stream(
            spec=job.spec,
            first_step=self.step,
            last_step=job.last_step,
            rank=runtime.rank,
            num_ranks=runtime.num_ranks,
            open_segment=runtime.open_segment,
            pin_memory=job.uses_gpu,
        )
        if self.step == 0 or self._is_eval_step():  # of a checkpoint, too: it was written before its evaluation
            self.recorder.evaluate(self.step, self._state(), may_wait=True)
        if self.learner.device.type == "cuda":
            self._copies = torch.cuda.Stream(self.learner.device)
        measured = Measured(device=self.learner.device, first=self.step)
        bad: list[BadRow] = []
        since, looked_at, waited, is_first = time.monotonic(), self.step, 0.0, True
        for loaded in stream:
            measured.add(self._train_on(loaded, is_first))
            bad += loaded.bad
            is_first = False
            self.step += 1
            log.debug(f"step {self.step}")
            self.recorder.done(self.step)
            if self._is_sync_step():
                elapsed = max(time.monotonic() - since, 1e-9)
                pace = Pace(
                    steps_per_s=(self.step - looked_at) / elapsed, wait_fraction=(stream.wait_s - waited) / elapsed
                )
                self._sync(measured, bad, pace)
                bad = []
                since, looked_at, waited = time.monotonic(), self.step, stream.wait_s

    def _train_on(self, loaded: Loaded, is_first: bool) -> StepResult:
        self._copied = None
        batch = loaded.batch.to(self.learner.device, self._copies)
        if is_first and self.runtime.num_ranks > 1 and self.job.uses_gpu:
            self.learner.try_memory(batch)
        optim, num_rows = self.job.config.optim, self.job.num_rows
        position = self.step * optim.global_batch_size
        return self.learner.step(
            batch, lr=optim.lr_at(position, num_rows), progress=optim.progress_at(position, num_rows)
        )

    def _is_sync_step(self) -> bool:
        """Whether this rank, and so every rank, reads its results now."""
        run = self.job.config.run
        every = run.checkpoint_every_steps
        return (
            self.step >= self._next_sync
            or self.step % run.log_every_steps == 0
            or self.step == self.job.last_step
            or (every is not None and self.step % every == 0)
            or self._is_eval_step()
        )

    def _is_eval_step(self) -> bool:
        every = self.job.config.eval.every_steps
        assert every is not None
        return self.step % every == 0 or self.step == self.job.last_step

    def _sync(self, measured: Measured, bad: list[BadRow], pace: Pace) -> None:
        """Record what has been measured, and checkpoint and evaluate if due; before either, the device is waited for."""
        signals = self._signals(len(bad), pace).summed_over_ranks(self._between_hosts)
        self._next_sync = self.step + int(signals.steps_to_next_sync)
        if signals.poll:
            self._polled_s = time.monotonic()
        loses_node = bool(signals.poll) and self.runtime.is_losing_a_node()
        saves = bool(signals.checkpoint or signals.save or loses_node)
        first, values = measured.take(everything=saves or self._is_eval_step())
        for offset, value in enumerate(values):
            if not math.isfinite(value["train/loss"]):
                self._stop_on_nan(first + offset, value["train/loss"])
        if signals.num_bad:
            bad = _gather_bad(bad, self._between_hosts)
        self.recorder.add_bad(bad)
        if values:
            pace = replace(pace, wait_fraction=signals.wait_fraction / self.runtime.num_ranks)
            self.recorder.add_steps(first, values, pace, self.learner)
        if saves:
            self._check_agreement()
            self.recorder.checkpoint(self.step, self._state())
        if signals.save or loses_node:
            self._wait_until_saved(loses_node)
        if signals.num_bad:
            self._stop_if_too_many_are_bad()
        if self._is_eval_step():
            self.recorder.evaluate(self.step, self._state())

    def _signals(self, num_bad: int, pace: Pace) -> _Signals:
        """What this rank has to tell the others."""
        own = _Signals(num_bad=float(num_bad), wait_fraction=pace.wait_fraction)
        if self.runtime.rank == 0:
            own.checkpoint = float(self.recorder.wants_checkpoint(self.step))
            own.steps_to_next_sync = max(1, int(_LOOK_EVERY_S * pace.steps_per_s))
            own.poll = float(time.monotonic() - self._polled_s > _LOOK_EVERY_S)
            own.save = float(own.poll and self.recorder.is_asked_to_save())
        return own

    def _state(self) -> State | None:
        """A copy of everything that training changes, made once a step. All ranks must call; others than rank 0 get none."""
        if self._copied is None:
            state = self.learner.state(copy=self.recorder.keeps)
            self._copied = (None if state is None else self.job.state(state, self.step),)
        return self._copied[0]

    def _wait_until_saved(self, loses_node: bool) -> None:
        """Have the checkpoint committed before this group ends: it is asked to, or it loses a node."""
        self.recorder.wait_until_saved(self.step, "move" if loses_node else "are restarted")
        self.runtime.from_rank_zero(None)  # nobody leaves before rank 0 has saved
        if loses_node:
            raise NodeLeaving(LEAVING)
        if self.runtime.rank == 0:
            self.recorder.has_saved()
            time.sleep(_WAIT_TO_BE_STOPPED_S)  # steps done now would be done again

    def _stop_if_too_many_are_bad(self) -> None:
        too_many = self.runtime.from_rank_zero(self.recorder.too_many_bad(self.step))
        if too_many:
            raise _UserError(too_many)

    def _stop_on_nan(self, step: int, loss: float) -> None:
        good = self.recorder.last_checkpoint_text()
        if step == 0:
            why = self.job.task.explain_first_nan(self.job.config, self.learner.dtype)
            raise _UserError(f"the loss of step 0 is {loss}, before anything was learned: {why}")
        raise _UserError(
            f"the loss of step {step} is {loss}: training has diverged. {good}"
            "A lower optim.lr, a warm-up (optim.warmup-epochs) or run.dtype float32 often cures it"
        )

    def _check_agreement(self) -> None:
        if ranks_agree(self.learner.module):
            return
        if not _same_devices(self.learner.device):
            log.warning("workers on different GPU models drifted apart; rank 0's state was copied to all")
            copy_from_rank_zero(self.learner.module, self.learner.optimizer)
            return
        raise RuntimeError(f"at step {self.step} the workers no longer hold the same weights and queue")


def _gather_bad(bad: list[BadRow], group: dist.ProcessGroup | None) -> list[BadRow]:
    """Bad rows of all ranks. All ranks must call."""
    if collectives.world_size() == 1:
        return bad
    parts: list[list[BadRow]] = [[] for _ in range(collectives.world_size())]
    dist.all_gather_object(parts, bad, group)
    return [item for part in parts for item in part]


@dataclass(kw_only=True)
class _Signals:
    """What ranks tell each other at a sync step; all but the last two are rank 0's alone."""

    checkpoint: float = 0.0
    save: float = 0.0
    poll: float = 0.0
    steps_to_next_sync: float = 0.0
    num_bad: float = 0.0
    wait_fraction: float = 0.0

    def summed_over_ranks(self, group: dist.ProcessGroup | None) -> _Signals:
        own = torch.tensor([getattr(self, item.name) for item in fields(self)], dtype=torch.float64)
        sums = collectives.all_reduce_sum(own, group).tolist()
        return _Signals(**{item.name: value for item, value in zip(fields(self), sums, strict=True)})


def _say_devices(job: Job, learner: Learner) -> None:
    """Say in which numbers the run computes, and where workers have different GPUs. All ranks must call."""
    device, models = learner.device, _device_models(learner.device)
    all_have = bool(collectives.all_reduce_min(int(has_bfloat16(device)), device))
    for line in words(job.config.run, learner.dtype, models, all_have_bfloat16=all_have):
        log.info(line)
    if advice := _about_devices(models):
        log.info(advice)


def _about_devices(models: list[str]) -> str | None:
    """What to know of workers on these models."""
    if len(set(models)) == 1:
        return None
    counts = ", ".join(f"{models.count(model)} x {model}" for model in sorted(set(models)))
    return f"the workers have different GPUs ({counts}): all wait for the slowest at every step"


def _same_devices(device: torch.device) -> bool:
    return len(set(_device_models(device))) == 1


def _device_models(device: torch.device) -> list[str]:
    """The model of every rank's device. All ranks must call."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    if collectives.world_size() == 1:
        return [name]
    names: list[str] = ["" for _ in range(collectives.world_size())]
    dist.all_gather_object(names, name)
    return names
