"""What a person sees of a running training: one line every few seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from moco_ray.config.methods.memory_bank import MemoryBankConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.train.job import Job

_EVERY_S = 5.0
_MUCH_WAITING = 0.2
_LOOKS_BEFORE_ADVICE = 5
_COURSES = {
    MoCoConfig.name: ": it starts near 0, rises to that while the queue fills, and falls",
    MemoryBankConfig.name: ": it starts above that, while the bank holds random directions, and falls",
}


class Progress:
    """Says where training stands, how fast it is and when it will be done."""

    def __init__(self, job: Job, first_step: int, say: Callable[[str], None]) -> None:
        self._job, self._say = job, say
        self._first_step = first_step
        self._clock: tuple[int, float] | None = None  # step and time of the first update: before it, things warm up
        self._last_s = -math.inf
        self._num_waiting = 0

    def begin(self) -> None:
        """Say what comes."""
        job, optim = self._job, self._job.config.optim
        chance = job.config.method.chance_loss(optim.global_batch_size)
        course = _COURSES.get(job.config.method.name, "")
        where = f"step {self._first_step:,} of {job.last_step:,}"
        self._say(f"training from {where}: {job.num_rows:,} images, batches of {optim.global_batch_size:,}")
        self._say(
            f"effective learning rate {optim.effective_lr:g} (optim.lr {optim.lr:g} for 256 images); a loss of about "
            f"{chance:.2f} is chance{course}"
        )
        self._say("waiting for the first batch")

    def update(self, step: int, values: dict[str, float]) -> None:
        """Say where training stands, if the last time is long enough ago."""
        now = time.monotonic()
        self._clock = self._clock or (step, now)
        self._advise(values["perf/data_wait_fraction"])
        is_last = step == self._job.last_step
        if now - self._last_s < _EVERY_S and not is_last:
            return
        self._last_s = now
        since_step, since_s = self._clock
        left_s = (now - since_s) / max(1, step - since_step) * (self._job.last_step - step)
        left = f"{timedelta(seconds=round(left_s))} left" if step > since_step else "time left unknown yet"
        optim = self._job.config.optim
        epoch = step * optim.global_batch_size / self._job.num_rows
        self._say(
            f"step {step:,}/{self._job.last_step:,} · epoch {epoch:.2f}/{optim.epochs} · loss {values['train/loss']:.4f} · "
            f"finds its key {values['train/contrast_accuracy']:.1f} % · {values['perf/images_per_s']:,.0f} images/s · "
            f"data wait {100 * values['perf/data_wait_fraction']:.0f} % · {left}"
        )

    def _advise(self, wait_fraction: float) -> None:
        """Say it once when training keeps waiting for data."""
        self._num_waiting = self._num_waiting + 1 if wait_fraction > _MUCH_WAITING else 0
        if self._num_waiting == _LOOKS_BEFORE_ADVICE:
            self._say(
                f"training waits for data {100 * wait_fraction:.0f} % of the time: more CPUs for reading and augmenting, "
                "smaller images or Parquet files with row groups of about 32 images would make it faster"
            )

    def tell_evaluation(self, line: dict[str, Any]) -> None:
        """Say what an evaluation found."""
        names = {"eval/knn_top1": "kNN {:.2f} %", "eval/rankme": "RankMe {:.1f}", "eval/alignment": "alignment {:.3f}"}
        names |= {"eval/uniformity": "uniformity {:.3f}", "eval/bad_images": "{:.0f} left out as bad"}
        found = [text.format(line[name]) for name, text in names.items() if name in line]
        self._say(f"encoder after {line['step']:,} steps: {' · '.join(found)}")
