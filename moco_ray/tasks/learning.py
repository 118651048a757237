"""Whether a run learns at all."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from moco_ray.evaluate.diagnosis import Learning, diagnose, norm_updates, relative_change, weights_of
from moco_ray.run_folder.checkpoint import State
from moco_ray.tasks.job import Job
from moco_ray.tasks.task import Watch

log = logging.getLogger(__name__)


class LearningWatch(Watch):
    """Warns, once for each cause, where an evaluation shows that a run learns nothing. It never stops one."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._start: Mapping[str, Tensor] | None = None  # weights; only until they can be compared with others
        self._moved: float | None = None
        self._norm_updates: int | None = None
        self._said: set[str] = set()

    def see(self, step: int, state: State) -> None:
        """Look at the weights that are about to be measured."""
        self._norm_updates = norm_updates(state["method"])
        if step == 0:
            self._start = weights_of(state["method"])
        elif self._start is not None:
            self._moved, self._start = relative_change(self._start, weights_of(state["method"])), None

    def warnings(self, line: Mapping[str, Any], loss: float | None) -> list[str]:
        """What an evaluation shows, each cause once."""
        config = self._job.config
        learning = Learning(
            loss=loss,
            temperature=config.method.temperature,
            effective_lr=config.optim.effective_lr,
            moved=self._moved if line["step"] > 0 else None,
            norm_updates=self._norm_updates,
        )
        found = {cause: text for cause, text in diagnose(line, learning).items() if cause not in self._said}
        self._said |= found.keys()
        return list(found.values())
