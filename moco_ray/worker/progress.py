"""What a person sees of a running training: one line every few seconds."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

from moco_ray.tasks.job import Job

log = logging.getLogger(__name__)
_COLUMNS = 74  # a terminal of 80 puts a clock beside it
_MUCH_WAITING = 0.2
_LOOKS_BEFORE_ADVICE = 5


class Progress:
    """Says where training stands, how fast it is and when it will be done."""

    def __init__(self, job: Job, first_step: int) -> None:
        self._job = job
        self._first_step = first_step
        self._clock: tuple[int, float] | None = None  # step and time of the first update: before it, things warm up
        self._last_s = -math.inf
        self._num_waiting = 0

    def begin(self) -> None:
        """Say what comes."""
        job, optim = self._job, self._job.config.optim
        where = f"step {self._first_step:,} of {job.last_step:,}"
        log.info(f"training from {where}: {job.num_rows:,} images, batches of {optim.global_batch_size:,}")
        for line in job.task.opening(job.config):
            log.info(line)
        log.info("waiting for the first batch")

    def update(self, step: int, values: dict[str, float]) -> None:
        """Say where training stands, if the last time is long enough ago."""
        now = time.monotonic()
        self._clock = self._clock or (step, now)
        self._advise(values["perf/data_wait_fraction"])
        is_last = step == self._job.last_step
        if now - self._last_s < self._job.patience.line and not is_last:
            return
        self._last_s = now
        log.info(self._line(step, values, now))

    def restart_clock(self) -> None:
        """Leave the time until now out of the estimate of the time left."""
        self._clock = None

    def _line(self, step: int, values: dict[str, float], now: float) -> str:
        """A line for a terminal of 80 columns; what fits no more is left out, the least important first."""
        assert self._clock is not None
        since_step, since_s = self._clock
        left_s = (now - since_s) / max(1, step - since_step) * (self._job.last_step - step)
        optim, loss = self._job.config.optim, values["train/loss"]
        waits = values["perf/data_wait_fraction"]
        word, metric = self._job.task.shown or ("", "")
        parts = {
            "step": f"step {step:,}/{self._job.last_step:,}",
            "epoch": f"epoch {step * optim.global_batch_size / self._job.num_rows:.1f}",
            "loss": f"loss {loss:.{4 if loss < 10 else 2}f}",
            "shown": f"{word} {values[metric]:.1f} %" if metric in values else "",
            "speed": f"{values['perf/images_per_s']:,.0f} img/s",
            "wait": f"data wait {100 * waits:.0f} %" if waits > _MUCH_WAITING else "",
            "left": f"{duration(left_s)} left" if step > since_step else "",
        }
        for dropped in ("", "epoch", "wait", "speed"):
            parts.pop(dropped, None)
            line = " · ".join(part for part in parts.values() if part)
            if len(line) <= _COLUMNS:
                break
        return line

    def _advise(self, wait_fraction: float) -> None:
        """Say it once when training keeps waiting for data."""
        self._num_waiting = self._num_waiting + 1 if wait_fraction > _MUCH_WAITING else 0
        if self._num_waiting == _LOOKS_BEFORE_ADVICE:
            log.info(
                f"training waits for data {100 * wait_fraction:.0f} % of the time: more CPUs for reading and augmenting, "
                "smaller images or Parquet files with row groups of about 32 images would make it faster"
            )

    def tell_evaluation(self, line: dict[str, Any], untrained: dict[str, Any] | None) -> None:
        """Say what an evaluation found, beside what the untrained encoder had."""
        for text in self._job.task.describe(line, untrained):
            log.info(text)


def duration(seconds: float) -> str:
    """A time in two units."""
    s = round(seconds)
    for unit, smaller, unit_s, smaller_s in (("d", "h", 86400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1)):
        if s >= unit_s:
            return f"{s // unit_s}{unit} {s % unit_s // smaller_s}{smaller}"
    return f"{s}s"
