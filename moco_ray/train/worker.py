"""The training loop of one worker."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from moco_ray.config import experiment_differences, from_json
from moco_ray.core import collectives
from moco_ray.core.agreement import copy_from_rank_zero, ranks_agree
from moco_ray.core.step import Learner, StepResult
from moco_ray.data.storage import Storage
from moco_ray.data.stream import BadRow, Loaded, Stream, StreamError
from moco_ray.train.checkpoint import CheckpointStore, State
from moco_ray.train.job import Job, Outcome
from moco_ray.train.place import Place
from moco_ray.train.recorder import Recorder
from moco_ray.train.state import build_learner, learner_state

_MAX_STARTS_WITHOUT_PROGRESS = 3


class _UserError(Exception):
    """Something that every rank saw and that trying again would not mend."""


def train(job: Job, place: Place, say: Callable[[str], None]) -> Outcome:
    """Train from the newest checkpoint, or from the start, to the last step. All ranks must call.

    Args:
        job: What to do.
        place: Where it is done.
        say: Prints a line for the user; called on rank 0 only.
    """
    if place.rank > 0:
        say = _say_nothing
    store = CheckpointStore(
        storage=Storage.open(job.run_uri, job.run_options),
        keep_last=job.config.run.keep_last,
        keep_every_steps=job.config.run.keep_every_steps,
    )
    newest, reason = place.from_rank_zero(_choose_start(store, place, say) if place.rank == 0 else (None, None))
    start = newest or 0
    restored = store.read(newest) if newest is not None and not reason else None
    if reason := reason or _mismatch(job, restored):
        return Outcome(step=start, error=reason)
    learner = build_learner(job, restored)
    recorder = Recorder(job, store, restored, start, place, say) if place.rank == 0 else None
    del restored
    loop = _Loop(job=job, place=place, learner=learner, step=start, recorder=recorder, say=say)
    try:
        loop.run()
    except (_UserError, StreamError) as error:
        return Outcome(step=loop.step, error=str(error))
    return Outcome(step=loop.step, summary=recorder.summary() if recorder else None)


def _choose_start(store: CheckpointStore, place: Place, say: Callable[[str], None]) -> tuple[int | None, str | None]:
    """Rank 0 chooses the checkpoint to start from, or says why this group of workers must not train."""
    if (error := place.user_error()) is not None:
        return None, error
    newest, failure = None, None
    try:
        newest = store.newest(say)
    except OSError as error:  # counted as a start, so that storage that stays away ends the run at some time
        failure = error
    if place.starts_without_progress(newest or 0) > _MAX_STARTS_WITHOUT_PROGRESS:
        return newest, (
            f"the workers failed {_MAX_STARTS_WITHOUT_PROGRESS} times in a row without committing a step after "
            f"{newest or 0}; the lines above and Ray's logs say why. The same command resumes the run"
        )
    if failure is not None:
        raise failure
    return newest, None


def _mismatch(job: Job, restored: State | None) -> str | None:
    """Why a checkpoint does not belong to this run."""
    if restored is None:
        return None
    step = restored["step"]
    if restored["manifest_digest"] != job.manifest_digest:
        return f"the checkpoint of step {step} was trained on other images than manifest.parquet lists; use another run.name"
    differences = experiment_differences(from_json(restored["config"]), job.config)
    return f"the checkpoint of step {step} is of another experiment: {'; '.join(differences)}" if differences else None


@dataclass(kw_only=True)
class _Loop:
    """Steps, and at intervals a look at what they measured."""

    job: Job
    place: Place
    learner: Learner
    step: int
    recorder: Recorder | None
    say: Callable[[str], None]

    def run(self) -> None:
        if self.step < self.job.last_step:
            self._train()
        state = learner_state(self.job, self.learner, self.step, copy=self.recorder is not None)
        if self.recorder:
            self.recorder.finish(self.step, state)

    def _train(self) -> None:
        job, place = self.job, self.place
        self._stop_if_too_many_are_bad()
        if self.recorder:
            self.recorder.begin()
        stream = Stream(
            spec=job.spec,
            first_step=self.step,
            last_step=job.last_step,
            rank=place.rank,
            num_ranks=place.num_ranks,
            open_segment=place.open_segment,
            pin_memory=job.uses_gpu,
        )
        if self.step == 0 or self._is_eval_step():  # of a checkpoint, too: it was written before its evaluation
            self._evaluate()
        in_flight: deque[torch.cuda.Event] = deque()
        pending: list[StepResult] = []
        bad: list[BadRow] = []
        fresh, since, waited = True, time.monotonic(), 0.0
        for loaded in stream:
            pending.append(self._train_on(loaded, fresh))
            bad += loaded.bad
            fresh = False
            self.step += 1
            self._bound_run_ahead(in_flight)
            if self._looks_up():
                elapsed = max(time.monotonic() - since, 1e-9)
                self._look(pending, bad, (stream.wait_s - waited) / elapsed, elapsed)
                pending, bad = [], []
                since, waited = time.monotonic(), stream.wait_s

    def _bound_run_ahead(self, in_flight: deque[torch.cuda.Event]) -> None:
        """Let a GPU fall at most one step behind, so that what the loop waits for data, the GPU waits too."""
        if self.learner.device.type != "cuda":
            return
        event = torch.cuda.Event()
        event.record()
        in_flight.append(event)
        if len(in_flight) > 1:
            in_flight.popleft().synchronize()

    def _train_on(self, loaded: Loaded, is_first: bool) -> StepResult:
        batch = loaded.batch.to(self.learner.device)
        if is_first and self.place.num_ranks > 1 and self.job.uses_gpu:
            self.learner.try_memory(batch)
        return self.learner.step(batch, lr=self.lr())

    def lr(self) -> float:
        config = self.job.config.optim
        return config.lr_at(self.step * config.global_batch_size, self.job.num_rows)

    def _looks_up(self) -> bool:
        """Whether this rank, and so every rank, reads its results now."""
        run = self.job.config.run
        every = run.checkpoint_every_steps
        return (
            self.step % run.log_every_steps == 0
            or self.step == self.job.last_step
            or (every is not None and self.step % every == 0)
            or self._is_eval_step()
        )

    def _is_eval_step(self) -> bool:
        every = self.job.config.eval.every_steps
        assert every is not None
        return self.step % every == 0 or self.step == self.job.last_step

    def _look(self, results: list[StepResult], bad: list[BadRow], wait_fraction: float, elapsed_s: float) -> None:
        """Read the results since the last look, record them, and checkpoint and evaluate if due."""
        values = [result.values() for result in results]
        first = self.step - len(values)
        for offset, value in enumerate(values):
            if not math.isfinite(value["train/loss"]):
                self._stop_on_nan(first + offset, value["train/loss"])
        wants_checkpoint = float(self.recorder is not None and self.recorder.wants_checkpoint(self.step))
        own = torch.tensor([wants_checkpoint, float(len(bad)), wait_fraction], dtype=torch.float64)
        checkpoint_now, num_bad, waits = collectives.all_reduce_sum(own.to(self.learner.device)).tolist()
        if num_bad:
            bad = _gather_bad(bad)
        if self.recorder:
            self.recorder.add_bad(bad)
            self.recorder.add_steps(first, values, waits / self.place.num_ranks, elapsed_s, self.learner)
        if checkpoint_now:
            self._check_agreement()
            state = learner_state(self.job, self.learner, self.step, copy=self.recorder is not None)
            if self.recorder:
                self.recorder.checkpoint(self.step, state)
        if num_bad:
            self._stop_if_too_many_are_bad()
        if self._is_eval_step():
            self._evaluate()

    def _evaluate(self) -> None:
        state = learner_state(self.job, self.learner, self.step, copy=self.recorder is not None)
        if self.recorder:
            self.recorder.evaluate(self.step, state)

    def _stop_if_too_many_are_bad(self) -> None:
        too_many = self.place.from_rank_zero(self.recorder.too_many_bad() if self.recorder else None)
        if too_many:
            raise _UserError(too_many)

    def _stop_on_nan(self, step: int, loss: float) -> None:
        good = self.recorder.last_checkpoint_text() if self.recorder else ""
        raise _UserError(
            f"the loss of step {step} is {loss}: training has diverged. {good}"
            "A lower optim.lr, a warm-up (optim.warmup-epochs) or run.dtype float32 often cures it"
        )

    def _check_agreement(self) -> None:
        if ranks_agree(self.learner.moco):
            return
        if not _same_devices(self.learner.device):
            self.say("warning: workers on different GPU models drifted apart; rank 0's state was copied to all")
            copy_from_rank_zero(self.learner.moco, self.learner.optimizer)
            return
        raise RuntimeError(f"at step {self.step} the workers no longer hold the same weights and queue")


def _gather_bad(bad: list[BadRow]) -> list[BadRow]:
    """Bad rows of all ranks. All ranks must call."""
    if collectives.world_size() == 1:
        return bad
    parts: list[list[BadRow]] = [[] for _ in range(collectives.world_size())]
    dist.all_gather_object(parts, bad)
    return [item for part in parts for item in part]


def _same_devices(device: torch.device) -> bool:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    names: list[str] = ["" for _ in range(collectives.world_size())]
    dist.all_gather_object(names, name)
    return len(set(names)) == 1


def _say_nothing(line: str) -> None:
    pass
