"""The training loop of one worker."""

from __future__ import annotations

import logging
import math
import time
from contextlib import closing
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist

from moco_ray.core import collectives
from moco_ray.core.agreement import copy_from_rank_zero, ranks_agree
from moco_ray.core.step_result import StepResult
from moco_ray.data.stream import BadRow, Loaded, Stream, StreamError
from moco_ray.run_folder.checkpoint import CheckpointStore, State
from moco_ray.storage.storage import Storage
from moco_ray.tasks.arithmetic import fast_arithmetic
from moco_ray.tasks.job import Job, Outcome
from moco_ray.tasks.learner import Learner
from moco_ray.worker.devices import same_devices, say_devices
from moco_ray.worker.folder_recorder import FolderRecorder
from moco_ray.worker.measured import Measured, Pace
from moco_ray.worker.not_finite import LossNotFinite, explain
from moco_ray.worker.recorder import Recorder
from moco_ray.worker.runtime import LEAVING, Runtime
from moco_ray.worker.signals import Signals, gather_bad
from moco_ray.worker.start import check_visible, choose_start, explain_mismatch, restore

log = logging.getLogger(__name__)


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
    check_visible(storage)
    store = CheckpointStore(
        storage=storage,
        keep_last=job.config.run.keep_last,
        keep_every_steps=job.config.run.keep_every_steps,
    )
    before = runtime.group_before() if runtime.rank == 0 else None
    newest, content, refusal = None, None, None
    if runtime.rank == 0:
        newest, content, refusal = choose_start(store, runtime, before[0] if before else None)
    newest, refusal = runtime.from_rank_zero((newest, refusal))
    if refusal:
        return refusal
    start = newest or 0
    restored = None if newest is None else restore(content, job)
    del content
    if mismatch := explain_mismatch(job, restored):
        return Outcome(step=start, error=mismatch)
    learner = job.task.build(job, restored)
    recorder = Recorder()
    if runtime.rank == 0:
        recorder = FolderRecorder(job, store, restored, start, runtime, before, learner.dtype)
    del restored
    say_devices(job, learner)
    loop = _Loop(job=job, runtime=runtime, learner=learner, step=start, recorder=recorder)
    try:
        with fast_arithmetic(learner.device, learner.dtype):
            loop.run()
    except (_UserError, StreamError) as error:
        return Outcome(step=loop.step, error=str(error))
    except LossNotFinite as failed:
        return Outcome(step=loop.step, error=loop.explain(failed))
    finally:
        recorder.close()
    return Outcome(step=loop.step, summary=recorder.summary())


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
            self._stop_if_collapsed()
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
        with closing(iter(stream)) as batches:
            for loaded in batches:
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
        lr, progress = self.job.schedule_at(self.step)
        return self.learner.step(batch, lr=lr, progress=progress)

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
        saves = bool(signals.checkpoint or signals.save or signals.stop or loses_node)
        first, values = measured.take(everything=saves or self._is_eval_step())
        for offset, value in enumerate(values):
            if not math.isfinite(value["train/loss"]):
                raise LossNotFinite(first + offset, value["train/loss"], pace.steps_per_s)
        if signals.num_bad:
            bad = gather_bad(bad, self._between_hosts)
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
        if signals.stop:
            self.recorder.wait_until_saved(self.step, "stop")
            self._stop_if_collapsed()
        if self._is_eval_step():
            self.recorder.evaluate(self.step, self._state())

    def _signals(self, num_bad: int, pace: Pace) -> Signals:
        """What this rank has to tell the others."""
        own = Signals(num_bad=float(num_bad), wait_fraction=pace.wait_fraction)
        if self.runtime.rank == 0:
            own.checkpoint = float(self.recorder.wants_checkpoint(self.step))
            own.steps_to_next_sync = max(1, int(self.job.patience.look * pace.steps_per_s))
            own.poll = float(time.monotonic() - self._polled_s > self.job.patience.look)
            own.stop = float(self.step < self.job.last_step and self.recorder.collapse() is not None)
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
            time.sleep(self.job.patience.stop)  # steps done now would be done again

    def _stop_if_too_many_are_bad(self) -> None:
        too_many = self.runtime.from_rank_zero(self.recorder.too_many_bad(self.step))
        if too_many:
            raise _UserError(too_many)

    def _stop_if_collapsed(self) -> None:
        collapse = self.recorder.collapse()
        if collapse:
            is_saved = self.recorder.saved_step() == self.step
            kept = "everything saved" if is_saved else "the last steps unsaved"
            collapse = (
                f"{collapse}. Stopped after {self.step:,} steps because of run.stop-on-collapse, with {kept}: the same "
                "command without it goes on"
            )
        collapse = self.runtime.from_rank_zero(collapse)
        if collapse:
            raise _UserError(collapse)

    def explain(self, failed: LossNotFinite) -> str:
        """Why a loss is not finite. All ranks must call."""
        learner, self._copied = self.learner, None
        learner.optimizer.zero_grad()
        if learner.device.type == "cuda":  # the learner that does the steps again needs the room
            learner.module.to("cpu")
            learner.optimizer.state.clear()
            torch.cuda.empty_cache()
        return explain(failed, self.job, self.runtime, self.recorder, learner.dtype, self._between_hosts)

    def _check_agreement(self) -> None:
        if ranks_agree(self.learner.module):
            return
        if not same_devices(self.learner.device):
            log.warning("workers on different GPU models drifted apart; rank 0's state was copied to all")
            copy_from_rank_zero(self.learner.module, self.learner.optimizer)
            return
        raise RuntimeError(f"at step {self.step} the workers no longer hold the same weights and queue")
