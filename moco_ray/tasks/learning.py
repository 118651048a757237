"""Whether a run learns at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from moco_ray.config import Config
from moco_ray.evaluate.collapse import Chance, ChanceWatch, fallen, patience_steps
from moco_ray.evaluate.diagnosis import Learning, diagnose, norm_updates, relative_change, weights_of
from moco_ray.run_folder.checkpoint import State
from moco_ray.tasks.job import Job
from moco_ray.tasks.task import Watch

_COLLAPSE = frozenset({"collapse", "fallen", "chance"})
_CAUSES_OF_CHANCE = frozenset({"flat", "identical", "still", "temperature"})  # which say more


class LearningWatch(Watch):
    """Says, once for each cause, where evaluations and steps show that a run learns nothing. It never stops one."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._start: Mapping[str, Tensor] | None = None  # weights; only until they can be compared with others
        self._moved: float | None = None
        self._norm_updates: dict[int, int | None] = {}  # by step, as evaluations may end late
        self._said: set[str] = set()
        self._all_alike: set[int] = set()  # steps whose evaluations showed embeddings which are all alike
        self._collapse: dict[str, str] = {}  # by what shows it now
        chance = chance_of(job.config, job.num_rows, job.last_step)
        self._chance = ChanceWatch(chance=chance) if chance else None

    def see(self, step: int, state: State) -> None:
        """Look at the weights that are about to be measured."""
        self._norm_updates[step] = norm_updates(state["method"])
        if step == 0:
            self._start = weights_of(state["method"])
        elif self._start is not None:
            self._moved, self._start = relative_change(self._start, weights_of(state["method"])), None

    def warnings(self, line: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], loss: float | None) -> list[str]:
        """What an evaluation shows, by itself and beside those before it, each cause once."""
        moved = self._moved if line["step"] > 0 else None
        found = diagnose(line, self._learning(loss, moved=moved, step=line["step"]))
        if "collapse" in found:
            self._all_alike.add(line["step"])
        newest = [other["step"] for other in lines][-2:]
        fall = fallen(lines, self._learning(loss, moved=None, step=newest[-1]))
        if fall is not None and "collapse" not in found:
            found["fallen"] = fall
        before = self._collapse.pop("evaluations", None)
        text = fall or found.get("collapse", before)
        if text is not None and (fall is not None or (len(newest) == 2 and self._all_alike.issuperset(newest))):
            self._collapse["evaluations"] = text
        return self._new(found)

    def steps_warnings(self, first: int, values: Sequence[Mapping[str, float]]) -> list[str]:
        """That the loss stays at chance, once."""
        if self._chance is None:
            return []
        losses = [value["train/loss"] for value in values]
        keys = [value["train/contrast_accuracy"] for value in values]
        self._chance.see(first, losses, keys)
        text = self._chance.words(
            first + len(values), losses[-1], keys[-1], self._learning(losses[-1], moved=None, step=None)
        )
        self._collapse.pop("steps", None)
        if text is None:
            return []
        self._collapse["steps"] = text
        return [] if self._said & _CAUSES_OF_CHANCE else self._new({"chance": text})

    def collapse(self) -> str | None:
        """What evaluations show, or else steps."""
        return self._collapse.get("evaluations") or self._collapse.get("steps")

    def state(self) -> State:
        """What was said, and what is wrong now."""
        return {
            "said": sorted(self._said),
            "collapse": dict(self._collapse),
            "all_alike": sorted(self._all_alike)[-2:],
            "at_chance_since": self._chance.since if self._chance else None,
        }

    def restore(self, state: State) -> None:
        """Take that over."""
        self._said = set(state.get("said", ()))
        self._collapse = dict(state.get("collapse", {}))
        self._all_alike = set(state.get("all_alike", ()))
        if self._chance is not None:
            self._chance.since = state.get("at_chance_since")

    def _learning(self, loss: float | None, *, moved: float | None, step: int | None) -> Learning:
        """What is known beside an evaluation of the weights after so many steps."""
        method, optim = self._job.config.method, self._job.config.optim
        return Learning(
            loss=loss,
            temperature=method.temperature,
            effective_lr=optim.effective_lr,
            moved=moved,
            encoder_momentum=method.encoder_momentum,
            weight_decay=0.0 if optim.optimizer == "adamw" else optim.weight_decay,
            norm_updates=self._norm_updates.get(step) if step is not None else None,
        )

    def _new(self, found: Mapping[str, str]) -> list[str]:
        is_known = bool(self._said & _COLLAPSE)  # by whatever showed it first
        new = {
            cause: text
            for cause, text in found.items()
            if cause not in self._said and not (is_known and cause in _COLLAPSE)
        }
        self._said |= new.keys()
        return list(new.values())


def chance_of(config: Config, num_rows: int, last_step: int) -> Chance | None:
    """What chance is for a run; None for a method that does not say."""
    method, size = config.method, config.optim.global_batch_size
    floor, key = method.floor_loss(size, config.model.dim), method.chance_key(size)
    if floor is None or key is None:
        return None
    filled = method.num_entries(num_rows) / size
    return Chance(
        loss=method.chance_loss(size),
        floor=floor,
        key=key,
        from_step=math.ceil(max(config.optim.warmup_epochs * num_rows / size, num_rows / size, filled)),
        patience=patience_steps(last_step, num_rows / size),
    )
