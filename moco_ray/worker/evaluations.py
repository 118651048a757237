"""When and where what is learned is measured while it learns. A measurement that fails never ends training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from moco_ray.run_folder.checkpoint import State
from moco_ray.run_folder.metrics import best_line
from moco_ray.tasks.job import Job
from moco_ray.tasks.task import Tell
from moco_ray.worker.runtime import Runtime

log = logging.getLogger(__name__)

Line = dict[str, Any]


def no_word(done: int, total: int) -> None:
    """Tell nobody how far an evaluation is."""


class Evaluations:
    """Runs evaluations beside training where a slot is free, and else inline within a share of the time.

    Attributes:
        lines: One for each evaluated step, by step.
    """

    def __init__(self, job: Job, lines: list[Line], runtime: Runtime) -> None:
        self.lines = list(lines)
        self._job, self._runtime = job, runtime
        self._running: dict[int, Callable[[], Any | None]] = {}
        self._waiting: tuple[int, State] | None = None
        self._new: list[Line] = []
        self._began_s = time.monotonic()
        self._inline_s, self._last_inline_s = 0.0, 0.0
        self._said_skipping = False

    def start(self, step: int, state: State, *, may_wait: bool = False) -> None:
        """Measure what was learned in `state`; skipped where it would take more than its share of the time.

        Args:
            step: Steps done.
            state: A copy: training may go on before it is measured.
            may_wait: Where training would have to wait for it, measure it only in `run_waiting`.
        """
        if any(line["step"] == step for line in self.lines) or step in self._running:
            return
        try:
            state = self._job.task.measured(state)
            waits = self._job.config.eval.max_time_fraction == 1  # whoever decides on a measurement needs it now
            poll = None if waits else self._runtime.submit(measure, self._job, state)
        except Exception as error:
            self._warn(step, error)
            return
        if poll is not None:
            self._running[step] = poll
        elif may_wait:
            self._waiting = (step, state)
        elif self._may_run_inline(step):
            self._run_inline(step, state)

    def run_waiting(self) -> bool:
        """Measure what has waited; returns whether there was anything."""
        if self._waiting is None:
            return False
        (step, state), self._waiting = self._waiting, None
        if self._may_run_inline(step):
            self._run_inline(step, state)
        return True

    def collect(self) -> list[Line]:
        """Lines of the evaluations that have ended since the last call."""
        for step, poll in list(self._running.items()):
            try:
                result = poll()
            except Exception as error:
                self._warn(step, error)
                del self._running[step]
            else:
                if result is not None:
                    self._add(step, result)
                    del self._running[step]
        new, self._new = self._new, []
        return new

    def finish(self) -> None:
        """Wait for evaluations that still run."""
        give_up = time.monotonic() + self._job.patience.finish
        ended: list[Line] = []
        while self._running and time.monotonic() < give_up:
            ended += self.collect()
            time.sleep(0.1)
        for step in self._running:
            log.warning(f"the evaluation of step {step} did not end within {self._job.patience.finish:.0f} s; left out")
        self._new = ended + self._new

    def untrained(self) -> Line | None:
        """The line of step 0, if it is there yet."""
        return next((line for line in self.lines if line["step"] == 0), None)

    def best_step(self) -> int | None:
        """The step that was the best so far, by what the task judges by."""
        best = best_line(self.lines, self._job.task.judged_by(self._job.config))
        return None if best is None else int(best["step"])

    def _may_run_inline(self, step: int) -> bool:
        if step in (0, self._job.last_step):  # before and after training they block nothing
            return True
        if self._job.config.eval.max_time_fraction == 1:
            return True
        allowed = self._job.config.eval.max_time_fraction * (time.monotonic() - self._began_s)
        if self._inline_s + self._last_inline_s <= allowed:
            return True
        if not self._said_skipping:
            log.info(
                f"an evaluation takes {self._last_inline_s:.0f} s and no slot is free for it: some are left out, so that "
                f"they stay below eval.max-time-fraction {self._job.config.eval.max_time_fraction:g} of the time"
            )
            self._said_skipping = True
        return False

    def _run_inline(self, step: int, state: State) -> None:
        start = time.monotonic()
        try:
            self._add(step, measure(self._job, state, self._teller(step)))
        except Exception as error:
            self._warn(step, error)
        self._last_inline_s = time.monotonic() - start
        if step > 0:
            self._inline_s += self._last_inline_s

    def _teller(self, step: int) -> Callable[[int, int], None]:
        """Says how far a measurement is, now and then: at once for the first one, which a person waits for."""
        thing = self._job.task.learned
        what = f"untrained {thing}" if step == 0 else f"{thing} after {step:,} steps"
        last_s = time.monotonic() - (self._job.patience.line if step == 0 else 0.0)

        def tell(done: int, total: int) -> None:
            nonlocal last_s
            if time.monotonic() - last_s >= self._job.patience.line:
                last_s = time.monotonic()
                log.info(f"measuring the {what}: {done:,} of {total:,} images")

        return tell

    def _add(self, step: int, values: dict[str, float]) -> None:
        position = step * self._job.config.optim.global_batch_size
        line = {"step": step, "position": position, "epoch": position // self._job.num_rows, **values}
        self.lines = sorted([*self.lines, line], key=lambda line: line["step"])
        self._new.append(line)

    def _warn(self, step: int, error: Exception) -> None:
        log.warning(f"the evaluation of step {step} failed ({type(error).__name__}: {error}); training goes on")


def measure(job: Job, state: State, tell: Tell = no_word) -> dict[str, float]:
    """Measure what a state has learned, in whatever process this is."""
    return dict(job.task.evaluate(job, state, tell))
