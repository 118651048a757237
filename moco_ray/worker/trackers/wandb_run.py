"""A run in Weights & Biases, on their server or on a disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from moco_ray.worker.trackers.card import Card, Point, is_evaluation
from moco_ray.worker.trackers.wandb_files import rows_on_disk

_PROJECT = "moco_ray"
_ANSWER_S = 30.0
_STEP, _EVAL_STEP = "step", "eval/step"
_EVALUATED = "moco_ray/evaluated"  # of the summary, which keeps but the last of all that was logged


class WandbRun:
    """The run of that key; there is never a second one, and no point of it twice."""

    def __init__(self, card: Card) -> None:
        import wandb

        self._wandb, self._card = wandb, card
        self._run: Any = None
        self._newest = -1
        self._evaluated: set[int] = set()  # evaluations may come late
        self._next_row: int | None = None

    def open(self) -> str:
        """Go on with the run or begin it; returns where to look at it."""
        wandb, card = self._wandb, self._card
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            init_timeout=_ANSWER_S,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        is_offline = os.environ.get("WANDB_MODE") == "offline"
        written = rows_on_disk(os.environ.get("WANDB_DIR", "."), card.key) if is_offline else []
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=card.name,
            id=card.key,
            resume=None if is_offline else "allow",
            tags=list(dict.fromkeys(card.tags.values())),
            notes=card.folder,
            config=dict(card.params),
            allow_val_change=True,
            settings=settings,
        )
        self._run.define_metric(_EVAL_STEP, hidden=True)
        self._run.define_metric(_STEP, hidden=True)
        self._run.define_metric("eval/*", step_metric=_EVAL_STEP, step_sync=False)
        self._run.define_metric("*", step_metric=_STEP, step_sync=False)
        if is_offline:
            # Files of several sessions are sent as one run: their rows are counted on.
            self._next_row = len(written)
            self._newest = max((row[_STEP] for row in written if _STEP in row), default=-1)
            self._evaluated = {row[_EVAL_STEP] for row in written if _EVAL_STEP in row}
        else:
            summary = self._run.summary
            self._newest = int(summary.get(_STEP, -1))
            self._evaluated = {int(step) for step in summary.get(_EVALUATED, [])}
        return str(self._run.url or os.path.dirname(self._run.dir))

    def look(self) -> None:
        """Nothing: what was logged once reaches the server once."""

    def newest(self) -> int:
        """The newest step of training that is there; -1 for none."""
        return self._newest

    def send(self, points: Sequence[Point]) -> None:
        """Add points, but for what is there already."""
        for point in points:
            step = point["step"]
            if is_evaluation(point):
                if step not in self._evaluated:
                    self._log({_EVAL_STEP: step, **point["values"]})
                    self._evaluated.add(step)
                    self._run.summary[_EVALUATED] = sorted(self._evaluated)
            elif step > self._newest:
                self._log({_STEP: step, **point["values"]})
                self._newest = step

    def finish(self, *, is_done: bool) -> None:
        """Say how the run ended, and wait until all is sent."""
        self._run.finish(exit_code=0 if is_done else 1)
        self._wandb.teardown()  # only then its own process has written all

    def _log(self, row: dict[str, Any]) -> None:
        self._run.log(row, step=self._next_row)
        if self._next_row is not None:
            self._next_row += 1
