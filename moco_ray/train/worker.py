"""The training loop of one worker."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from moco_ray.config import Config, to_json
from moco_ray.core import collectives
from moco_ray.core.agreement import copy_from_rank_zero, ranks_agree
from moco_ray.core.encoders import build_encoder
from moco_ray.core.group_batch_norm import keep_running_share, merged_running_statistics, use_group_batch_norm
from moco_ray.core.moco import MoCo
from moco_ray.core.optim import build_optimizer
from moco_ray.core.step import Learner, StepResult
from moco_ray.data.blocks import StreamSpec
from moco_ray.data.storage import Storage, StorageOptions
from moco_ray.data.stream import BadRow, Loaded, Stream, StreamError
from moco_ray.evaluate.monitor import EvalSet
from moco_ray.train.checkpoint import CheckpointStore, State
from moco_ray.train.place import Place
from moco_ray.train.recorder import Recorder


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that the workers of a run need to know. Picklable; holds credentials, so it is never printed."""

    config: Config
    """The configuration, with every automatic value decided."""
    spec: StreamSpec
    """The stream."""
    num_rows: int
    """Images that training sees (n)."""
    manifest_digest: str
    """Digest of the manifest."""
    last_step: int
    """Steps of the run."""
    run_uri: str
    """The run's folder."""
    run_options: StorageOptions
    """Access to the run's folder."""
    initial_weights: bytes | None
    """State dict of the query encoder to start from, as torch.save writes it."""
    eval_set: EvalSet
    """Images to evaluate on."""
    uses_gpu: bool
    """Whether to train on a GPU."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a worker ended, when it ended in good order; infrastructure failures are raised instead."""

    step: int
    """Steps done in all."""
    error: str | None = None
    """What the user must mend; None if all went well."""
    summary: dict[str, float] | None = None
    """Last values of the metrics, from rank 0."""


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
    newest = place.from_rank_zero(store.newest(say) if place.rank == 0 else None)
    restored = store.read(newest) if newest is not None else None
    learner = build_learner(job, restored)
    start = newest or 0
    recorder = Recorder(job, store, restored, start, place, say) if place.rank == 0 else None
    loop = _Loop(job=job, place=place, learner=learner, step=start, recorder=recorder, say=say)
    try:
        loop.run()
    except (_UserError, StreamError) as error:
        return Outcome(step=loop.step, error=str(error))
    return Outcome(step=loop.step, summary=recorder.summary() if recorder else None)


def build_learner(job: Job, restored: State | None) -> Learner:
    """Build encoders, queue and optimizer, fresh from the seed or from a checkpoint. All ranks must call."""
    config = job.config
    torch.manual_seed(config.run.seed)
    encoder = build_encoder(config.model)
    if job.initial_weights is not None:
        encoder.load_state_dict(torch.load(io.BytesIO(job.initial_weights), weights_only=True))
    use_group_batch_norm(encoder, config.optim.group_size)
    moco = MoCo(encoder, config.method, torch.Generator().manual_seed(config.run.seed))
    device = _device(job.uses_gpu)
    moco.to(device=device, dtype=torch.float64 if config.run.dtype == "float64" else torch.float32)
    if device.type == "cuda":
        moco.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(moco.query_encoder.parameters(), config.optim)
    if restored is not None:
        moco.load_state_dict(restored["moco"])
        optimizer.load_state_dict(restored["optimizer"])
    learner = Learner(
        moco,
        optimizer,
        mean=config.views.mean,
        std=config.views.std,
        autocast=torch.bfloat16 if config.run.dtype == "bfloat16" else None,
        micro_batch_groups=config.run.micro_batch_groups,
    )
    keep_running_share(moco)
    moco.train()
    return learner


def learner_state(job: Job, learner: Learner, step: int) -> State:
    """Copy everything that training changes to the CPU. All ranks must call."""
    model = {**learner.moco.state_dict(), **merged_running_statistics(learner.moco)}
    return {
        "moco": {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.items()},
        "optimizer": _to_cpu(learner.optimizer.state_dict()),
        "scaler": None,  # bfloat16 needs no loss scaling
        "step": step,
        "position": step * job.config.optim.global_batch_size,
        "seed": job.config.run.seed,
        "config": to_json(job.config),
        "manifest_digest": job.manifest_digest,
    }


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
        job, place = self.job, self.place
        if self.step >= job.last_step:
            return
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
        if self.step == 0:
            self._evaluate()
        pending: list[StepResult] = []
        bad: list[BadRow] = []
        fresh, since, waited = True, time.monotonic(), 0.0
        for loaded in stream:
            pending.append(self._train_on(loaded, fresh))
            bad += loaded.bad
            fresh = False
            self.step += 1
            if self._looks_up():
                elapsed = max(time.monotonic() - since, 1e-9)
                self._look(pending, bad, (stream.wait_s - waited) / elapsed, elapsed)
                pending, bad = [], []
                since, waited = time.monotonic(), stream.wait_s
        if self.recorder:
            self.recorder.finish()

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
            self.recorder.add_steps(first, values, waits / self.place.num_ranks, elapsed_s, self.learner)
            self.recorder.add_bad(bad)
        if checkpoint_now:
            self._check_agreement()
            state = learner_state(self.job, self.learner, self.step)
            if self.recorder:
                self.recorder.checkpoint(self.step, state)
        if num_bad:
            self._stop_if_too_many_are_bad()
        if self._is_eval_step():
            self._evaluate()

    def _evaluate(self) -> None:
        state = learner_state(self.job, self.learner, self.step)
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
            copy_from_rank_zero(self.learner.moco)
            return
        raise RuntimeError(f"at step {self.step} the workers no longer hold the same weights and queue")


def _device(uses_gpu: bool) -> torch.device:
    if not uses_gpu:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _to_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _to_cpu(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_to_cpu(item) for item in value]
    return value


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
