"""The record of a run, in its folder: lines, checkpoints, evaluations, progress. Rank 0 keeps it."""

from __future__ import annotations

import json
import logging
import math
import time

import torch

from moco_ray.core import collectives
from moco_ray.data.known_bad import too_many_bad
from moco_ray.data.stream import BadRow
from moco_ray.run_folder.checkpoint import CheckpointStore, State, checkpoint_name
from moco_ray.run_folder.interruptions import Interruptions
from moco_ray.run_folder.lease import StepDone, check_lease
from moco_ray.run_folder.metrics import Line, StepLines, delete_provisional_parts, join_parts
from moco_ray.tasks.job import Job
from moco_ray.tasks.learner import Learner
from moco_ray.worker.background import BackgroundWriter
from moco_ray.worker.device_time import DeviceTime
from moco_ray.worker.evaluations import Evaluations
from moco_ray.worker.following import followers_of
from moco_ray.worker.measured import Pace, Values
from moco_ray.worker.progress import Progress
from moco_ray.worker.recorder import Recorder
from moco_ray.worker.runtime import Runtime

log = logging.getLogger(__name__)

_OF_EACH_STEP = ("train/loss", "rows_digest")  # the other values of a step are told as means of an interval
_BAD_IMAGES_SHOWN = 20


class FolderRecorder(Recorder):
    """Keeps what a run leaves behind; all of it goes to the run's folder with checkpoints, or not at all."""

    keeps = True

    def __init__(
        self,
        job: Job,
        store: CheckpointStore,
        restored: State | None,
        step: int,
        runtime: Runtime,
        before: tuple[str, StepDone | None] | None,
        dtype: str,
    ) -> None:
        kept = restored["recorder"] if restored else {"evaluations": [], "bad_images": {}}
        is_of_these = restored is not None and restored["manifest_digest"] == job.manifest_digest
        self._job, self._store, self._runtime = job, store, runtime
        self._lines = StepLines()
        self._bad: dict[int, dict[str, str]] = {
            row: bad for row, bad in kept["bad_images"].items() if is_of_these and row not in job.mended_rows
        }
        self._evaluations = Evaluations(job, kept["evaluations"], runtime)
        self._writer = BackgroundWriter()
        self._progress = Progress(job, step)
        self._watch = job.task.watch(job)
        self._watch.restore(kept.get("watch", {}))
        past = store.marker(step).get("device_s", {}) if restored else {}
        self._device_time = DeviceTime(past, runtime.num_ranks, uses_gpu=job.uses_gpu)
        self._last_values: dict[str, float] = {}
        self._committed = step if restored else None
        self._due = False
        self._next_checkpoint_s = math.inf
        # Soon after a start, so that even a cluster that changes all the time makes progress.
        self._checkpoint_pause_s = job.config.run.checkpoint_every_s / 4
        self._interruptions = Interruptions(store.storage)
        if before is not None:
            self._interruptions.begin(*before, step, runtime.num_ranks)
        check_lease(store.storage, job.lease_owner)  # before anything of a later step is deleted
        delete_provisional_parts(store.storage, step)
        store.delete_after(step if restored else -1)
        self._followers = followers_of(job, store.storage, step, runtime, self._interruptions.count, dtype)

    def begin(self) -> None:
        self._progress.begin()

    def done(self, step: int) -> None:
        self._runtime.done(step)

    def add_steps(self, first: int, values: list[Values], pace: Pace, learner: Learner) -> None:
        if math.isinf(self._next_checkpoint_s):  # the first steps: before them there is nothing to save
            self._next_checkpoint_s = time.monotonic() + self._checkpoint_pause_s
        self._interruptions.end()
        config, n = self._job.config, self._job.num_rows
        size = config.optim.global_batch_size
        lines: list[Line] = []
        for step, value in enumerate(values, start=first):
            line: Line = {
                "step": step,
                "position": step * size,
                "epoch": step * size // n,
                "world_size": collectives.world_size(),
                "train/loss": value["train/loss"],
                "rows_digest": value["rows_digest"],
            }
            lines.append(line)
        last_position = (first + len(values) - 1) * size
        interval = {
            **{name: sum(v[name] for v in values) / len(values) for name in values[-1] if name not in _OF_EACH_STEP},
            "train/lr": config.optim.lr_at(last_position, n),
            **learner.metrics(config.optim.progress_at(last_position, n)),
            "perf/images_per_s": pace.steps_per_s * size,
            "perf/data_wait_fraction": min(pace.wait_fraction, 1.0),
            "data/bad_images": len(self._bad),
        }
        lines[-1].update(interval)
        for line in lines:
            self._lines.add(line)
        self._last_values = {"train/loss": float(values[-1]["train/loss"]), **interval}
        self._followers.add(lines[-1]["step"], self._last_values)
        self._progress.update(first + len(values), self._last_values)
        for text in self._watch.steps_warnings(first, values):
            log.warning(f"{text}")
        if self._evaluations.run_waiting():
            self._progress.restart_clock()
        self._collect_evaluations()

    def add_bad(self, bad: list[BadRow]) -> None:
        for row, uri, reason in bad:
            if row not in self._bad:
                self._bad[row] = {"uri": uri, "reason": reason}
                if len(self._bad) <= _BAD_IMAGES_SHOWN:
                    log.info(f"bad image {uri}: {reason}; the next good image of its group stands in")

    def too_many_bad(self, step: int) -> str | None:
        job = self._job
        max_fraction = job.config.data.max_bad_fraction
        if len(self._bad) <= max_fraction * job.num_rows:
            return None
        self._write_now("bad_images.jsonl")
        bad = [(self._bad[row]["uri"], self._bad[row]["reason"]) for row in sorted(self._bad)]
        advice = "mend or delete them and give the same command with --data.relist"
        read = (step - job.listed_at_step) * job.config.optim.global_batch_size
        which = "all" if read >= job.num_rows else f"those met so far, after {read:,} of the {job.num_rows:,}"
        told = too_many_bad(bad, job.num_rows, max_fraction, advice=advice)
        return f"{told}\nbad_images.jsonl in the run's folder lists {which}"

    def collapse(self) -> str | None:
        return self._watch.collapse() if self._job.config.run.stop_on_collapse else None

    def wants_checkpoint(self, step: int) -> bool:
        every = self._job.config.run.checkpoint_every_steps
        self._due |= time.monotonic() >= self._next_checkpoint_s
        self._due |= every is not None and step % every == 0
        self._due |= step % (self._job.config.eval.every_steps or 1) == 0
        return step == self._job.last_step or (self._due and not self._writer.is_busy)

    def is_asked_to_save(self) -> bool:
        return self._runtime.is_asked_to_save()

    def has_saved(self) -> None:
        self._runtime.has_saved()

    def checkpoint(self, step: int, state: State | None) -> None:
        assert state is not None
        self._writer.finish(self._job.patience.finish)
        self._checkpoint_pause_s = min(2 * self._checkpoint_pause_s, self._job.config.run.checkpoint_every_s)
        self._due, self._next_checkpoint_s = False, time.monotonic() + self._checkpoint_pause_s
        kept = {"evaluations": self._evaluations.lines, "bad_images": dict(self._bad), "watch": self._watch.state()}
        state = {**state, "recorder": kept}
        lines, evaluations = list(self._lines.lines), list(self._evaluations.lines)
        files = {**self._lines.take_part(), **self._side_files(), **self._followers.files()}
        info = {
            "position": state["position"],
            "versions": {"torch": torch.__version__},
            "last_step": self._job.last_step,
            "best_by": self._job.task.judged_by(self._job.config),
            "keep_every_steps": self._store.keep_every_steps,
            "device_s": self._device_time.seconds(),
        }
        best = self._evaluations.best_step()

        def write() -> None:
            check_lease(self._store.storage, self._job.lease_owner)
            self._store.write(step, state, files, info)
            self._committed = step
            self._store.prune(keep={best} if best is not None else set())
            self._followers.commit(lines, evaluations)  # last: where something before fails, all of this is done again

        self._writer.start(checkpoint_name(step), write)

    def wait_until_saved(self, step: int, why: str) -> None:
        try:
            self._writer.finish(self._job.patience.save)
        except OSError as error:
            log.warning(f"the last checkpoint could not be written ({error}): its steps will be done again")
        log.info(f"saved step {step:,} before the workers {why}")

    def evaluate(self, step: int, state: State | None, *, may_wait: bool = False) -> None:
        assert state is not None
        self._watch.see(step, state)
        self._evaluations.start(step, state, may_wait=may_wait)
        self._collect_evaluations()

    def last_checkpoint_text(self) -> str:
        self._writer.finish(self._job.patience.finish)
        if self._committed is None:
            return "No checkpoint was written yet. "
        return f"The last good checkpoint is {self._store.storage.join(checkpoint_name(self._committed))}. "

    def saved_step(self) -> int | None:
        return self._committed

    def finish(self, step: int, state: State | None) -> None:
        assert state is not None
        log.info("writing the last checkpoint")
        self._writer.finish(self._job.patience.finish)
        log.info(f"measuring the final {self._job.task.learned}")
        self._watch.see(step, state)
        self._evaluations.start(step, state)
        self._evaluations.finish()
        self._collect_evaluations()
        storage = self._store.storage
        for name, content in {**self._side_files(), **self._job.task.files(state), **self._followers.files()}.items():
            storage.write_bytes(storage.join(*name.split("/")), content)
        storage.write_bytes(storage.join("metrics.jsonl"), join_parts(storage))
        self._interruptions.sum_up()
        self._followers.commit([], self._evaluations.lines)
        self._followers.close(is_done=True)

    def close(self) -> None:
        self._followers.close(is_done=False)

    def summary(self) -> dict[str, float]:
        last = self._evaluations.lines[-1] if self._evaluations.lines else {}
        return {**self._last_values, **{k: v for k, v in last.items() if k.startswith("eval/")}}

    def _side_files(self) -> dict[str, bytes]:
        evaluations = "".join(json.dumps(line) + "\n" for line in self._evaluations.lines)
        bad = [{"row": row, **self._bad[row]} for row in sorted(self._bad)]
        return {
            "eval.jsonl": evaluations.encode(),
            "bad_images.jsonl": "".join(json.dumps(line) + "\n" for line in bad).encode(),
        }

    def _write_now(self, name: str) -> None:
        """Write a side file between checkpoints; one that fails is written again with the next checkpoint."""
        try:
            self._store.storage.write_bytes(self._store.storage.join(name), self._side_files()[name])
        except (OSError, ValueError) as error:
            log.warning(f"{name} could not be written now ({error})")

    def _collect_evaluations(self) -> None:
        new = self._evaluations.collect()
        if new:
            self._write_now("eval.jsonl")
        for line in new:
            self._followers.add(line["step"], {name: value for name, value in line.items() if name.startswith("eval/")})
            self._progress.tell_evaluation(line, self._evaluations.untrained())
            for text in self._watch.warnings(line, self._evaluations.lines, self._last_values.get("train/loss")):
                log.warning(f"{text}")
