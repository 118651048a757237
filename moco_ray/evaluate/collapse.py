"""Runs that stop learning: embeddings that come together again, and losses that stay at chance.

The thresholds are from runs on CIFAR-10 (LOG.md): none that learned came near them, and of those that collapsed each passed
one of them, most of them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moco_ray.evaluate.diagnosis import SETTLED, Learning, cure

_FALLEN_SPREAD, _FALLEN_RANK = 1 / 10, 1 / 3  # of the highest so far
_SMALLEST_SPREAD, _SMALLEST_RANK = 0.02, 6.0  # to fall from: below it, few images are measured, or hardly told apart
_AT_CHANCE = 0.01  # of the way from the loss of chance to its floor
_FEWEST_STEPS, _SHARE_OF_RUN, _EPOCHS = 100, 0.05, 5.0
_CHANCE_KEYS, _OF_THE_OTHERS = (
    2.0,
    0.1,
)  # times as many queries that find their key as by chance; at most so many others


def fallen(lines: Sequence[Mapping[str, Any]], learning: Learning) -> str | None:
    """Say that embeddings have come together over the run, if the last two evaluations show it.

    Their spread is -uniformity, of which learning makes more. Weights are compared with trained ones alone: those that
    training begins with may have any spread and rank, and often lose some of it in the first steps, of runs that learn, too.
    Nothing is said while running statistics of BatchNorm still are those of the start.

    Args:
        lines: Of eval.jsonl, by step.
        learning: Of the run so far.
    """
    if learning.norm_updates is not None and learning.norm_updates < SETTLED:
        return None
    trained = [line for line in lines if line["step"] > 0]
    spread = _fall(trained, "eval/uniformity", -1.0, _FALLEN_SPREAD, _SMALLEST_SPREAD)
    rank = _fall(trained, "eval/rankme", 1.0, _FALLEN_RANK, _SMALLEST_RANK)
    for what, fall in (("the spread of the embeddings (-uniformity)", spread), ("RankMe of the features", rank)):
        if fall is not None:
            high, then, low, now = fall
            return (
                f"the encoder is collapsing: {what} was {high:.2g} after {then:,} steps and is {low:.2g} after {now:,}, as it "
                f"was at the evaluation before. What it had learned is going; {cure(learning)}"
            )
    return None


def _fall(
    lines: Sequence[Mapping[str, Any]], name: str, sign: float, share: float, smallest: float
) -> tuple[float, int, float, int] | None:
    """The highest value before the last two, its step, and the last value and its step, if both are that much lower."""
    lines = [line for line in lines if name in line]
    if len(lines) < 3:
        return None
    values = [sign * float(line[name]) for line in lines]
    high = max(values[:-2])
    if not (high > smallest and max(values[-2:]) < share * high):
        return None
    return high, int(lines[values.index(high)]["step"]), values[-1], int(lines[-1]["step"])


@dataclass(frozen=True, kw_only=True)
class Chance:
    """What a method's figures are where nothing is known, and from when on they should be better."""

    loss: float
    """The loss of embeddings that know nothing."""
    floor: float
    """That of embeddings that could not be better."""
    key: float
    """Percent of queries that find their own key by chance."""
    from_step: int
    """The first step after the warm-up, the first epoch and the filling of a dictionary."""
    patience: int
    """Steps at chance after which it is said."""


def patience_steps(steps: int, steps_an_epoch: float) -> int:
    """For how many steps figures may stay at chance: a twentieth of the run, at most five epochs, at least 100 steps."""
    return max(_FEWEST_STEPS, math.ceil(min(_SHARE_OF_RUN * steps, _EPOCHS * steps_an_epoch)))


@dataclass(kw_only=True)
class ChanceWatch:
    """Since when the loss, or how often a query finds its own key, has been at chance."""

    chance: Chance
    """Of the run."""
    since: int | None = field(default=None)
    """The first step of those that were, without one between them that was not; None: the last ones were not."""

    def see(self, first: int, losses: Sequence[float], keys: Sequence[float]) -> None:
        """Look at the steps of an interval, in which there is at least one.

        Args:
            first: Number of the first step.
            losses: Of each step.
            keys: Percent of queries that found their own key, of each step.
        """
        if first < self.chance.from_step:
            return
        loss, key = sum(losses) / len(losses), sum(keys) / len(keys)
        way = (self.chance.loss - loss) / max(self.chance.loss - self.chance.floor, 1e-9)
        by_chance = self.chance.key
        if way < _AT_CHANCE or key <= min(_CHANCE_KEYS * by_chance, by_chance + _OF_THE_OTHERS * (100.0 - by_chance)):
            self.since = first if self.since is None else self.since
        else:
            self.since = None

    def words(self, step: int, loss: float, key: float, learning: Learning) -> str | None:
        """Say so, if that has lasted.

        Args:
            step: Steps done.
            loss: The newest one.
            key: Percent of queries that found their own key, newest.
            learning: Of the run so far.
        """
        if self.since is None or step - self.since < self.chance.patience:
            return None
        return (
            f"nothing is learned: since step {self.since:,} the loss ({loss:.4g}; chance gives {self.chance.loss:.4g}) or how often "
            f"a query finds its own key ({key:.2g} %; chance gives {self.chance.key:.2g}) stays at chance; embeddings that are "
            f"all alike have such a loss, and find their keys by rounding alone. To begin anew, {cure(learning)}"
        )
