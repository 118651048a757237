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


class WandbRun:
    """The run of that key; there is never a second one, and no point of it twice."""

    def __init__(self, card: Card) -> None:
        import wandb

        self._wandb, self._card = wandb, card
        self._run: Any = None
        self._newest: dict[str, int] = {}
        self._rows_before: int | None = None
        self._sent: set[tuple[str, int]] = set()

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
            self._rows_before = len(written)
            steps = {name: [row[name] for row in written if name in row] for name in (_STEP, _EVAL_STEP)}
            self._newest = {name: max(values) for name, values in steps.items() if values}
        else:
            known = {name: self._run.summary.get(name) for name in (_STEP, _EVAL_STEP)}
            self._newest = {name: int(step) for name, step in known.items() if isinstance(step, int | float)}
        return str(self._run.url or os.path.dirname(self._run.dir))

    def look(self) -> None:
        """Nothing: what was logged once reaches the server once."""

    def newest(self, *, evaluation: bool) -> int:
        """The newest step that is there; -1 for none."""
        return self._newest.get(_EVAL_STEP if evaluation else _STEP, -1)

    def send(self, points: Sequence[Point]) -> None:
        """Add points, but for what is there already."""
        for point in points:
            axis = _EVAL_STEP if is_evaluation(point) else _STEP
            place = (axis, point["step"])
            if point["step"] > self._newest.get(axis, -1) and place not in self._sent:
                # Files of several sessions are sent as one run: their rows are counted on.
                row = None if self._rows_before is None else self._rows_before + len(self._sent)
                self._run.log({axis: point["step"], **point["values"]}, step=row)
                self._sent.add(place)

    def finish(self, *, is_done: bool) -> None:
        """Say how the run ended, and wait until all is sent."""
        self._run.finish(exit_code=0 if is_done else 1)
        self._wandb.teardown()  # only then its own process has written all
