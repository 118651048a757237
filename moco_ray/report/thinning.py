"""Curves of any length in bounded memory: extremes, the first and the last value are kept, and means are exact."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_FEWEST_FOR_MEANS = 100

Points = tuple[list[float], list[float]]
"""Steps and values, equally many."""


@dataclass(slots=True)
class _Bucket:
    """What is known of the values of some neighbouring steps."""

    lowest: tuple[float, float]
    highest: tuple[float, float]
    """Step and value."""
    count: int
    steps: float
    values: float
    """Sums."""

    def take(self, other: _Bucket) -> None:
        if other.lowest[1] < self.lowest[1]:
            self.lowest = other.lowest
        if other.highest[1] >= self.highest[1]:
            self.highest = other.highest
        self.count += other.count
        self.steps += other.steps
        self.values += other.values


@dataclass
class Thinned:
    """A curve that is thinned as it comes, by ascending steps.

    Neighbouring steps share a bucket, and buckets are joined two by two whenever there are too many of them. The result
    depends on the values alone, not on when they came: a run that was resumed has the same curve.
    """

    most: int = 400
    """Points that may be kept, at least 4."""
    count: int = 0
    """Finite values that came."""
    num_not_finite: int = 0
    """Values that were NaN or infinite; they are left out."""
    last: tuple[float, float] | None = None
    """Step and value that came last."""
    first: tuple[float, float] | None = None
    """Step and value that came first."""
    _width: float = 1.0
    _buckets: dict[int, _Bucket] = field(default_factory=dict)

    def add(self, step: float, value: float) -> None:
        """Add the value of a step, which must not be lower than those before."""
        if not math.isfinite(value):
            self.num_not_finite += 1
            return
        point = (step, value)
        self.first = self.first or point
        self.last = point
        self.count += 1
        key, bucket = int(step // self._width), _Bucket(point, point, 1, step, value)
        if key in self._buckets:
            self._buckets[key].take(bucket)
            return
        self._buckets[key] = bucket
        while len(self._buckets) > max(1, (self.most - 2) // 2):
            self._join()

    def points(self) -> Points:
        """What is left: the first and the last value, and the lowest and highest of every few steps."""
        if self.first is None or self.last is None:
            return [], []
        kept = {self.first, self.last}
        for bucket in self._buckets.values():
            kept |= {bucket.lowest, bucket.highest}
        ordered = sorted(kept)
        return [step for step, _ in ordered], [value for _, value in ordered]

    def means(self, share: float = 1 / 40) -> Points:
        """Running means over about a share of all steps; none where there is too little to take the mean of."""
        buckets = [self._buckets[key] for key in sorted(self._buckets)]
        half = round(share * len(buckets) / 2)
        if self.count < _FEWEST_FOR_MEANS or (half < 1 and self.count < 2 * len(buckets)):
            return [], []
        steps, values = [], []
        for place in range(len(buckets)):
            near = buckets[max(0, place - half) : place + half + 1]
            count = sum(bucket.count for bucket in near)
            steps.append(buckets[place].steps / buckets[place].count)
            values.append(sum(bucket.values for bucket in near) / count)
        return steps, values

    def _join(self) -> None:
        self._width *= 2
        joined: dict[int, _Bucket] = {}
        for key in sorted(self._buckets):
            if key // 2 in joined:
                joined[key // 2].take(self._buckets[key])
            else:
                joined[key // 2] = self._buckets[key]
        self._buckets = joined


def thin(steps: Iterable[float], values: Sequence[float], most: int) -> Points:
    """At most so many of the points of a curve: the first, the last, minima and maxima.

    Args:
        steps: Ascending.
        values: As many; those that are not finite are left out.
        most: At least 4.
    """
    thinned = Thinned(most)
    for step, value in zip(steps, values, strict=True):
        thinned.add(step, value)
    return thinned.points()
