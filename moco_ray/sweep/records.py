"""What a sweep knows of its trials: one file each in the sweep's folder, from which it goes on after a stop."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from moco_ray.storage.storage import Storage

State = Literal["running", "finished", "stopped", "failed"]
_FOLDER = "trials"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement of a trial."""

    step: int
    """Steps done."""
    position: int
    """Images seen."""
    value: float
    """The metric that is maximised."""
    metrics: dict[str, float]
    """All that was measured."""
    order: int
    """Its place among the measurements of all trials, as they became known."""


@dataclass(kw_only=True)
class Record:
    """One trial."""

    name: str
    """Of the trial and of its run's folder."""
    index: int
    """Its number."""
    parameters: dict[str, Any]
    """Fields and their values."""
    state: State = "running"
    """stopped: by the scheduler. failed: it has no result, for a reason of its own."""
    points: list[Point] = field(default_factory=list)
    """By position."""
    reason: str = ""
    """Why it failed."""
    seconds: float = 0.0
    """Time that its runs took, over all attempts."""
    generation: int = 0
    """Of a population, from 0."""
    parent: str = ""
    """The trial whose checkpoint it began from."""

    @property
    def value(self) -> float | None:
        """The newest value of the metric."""
        return self.points[-1].value if self.points else None

    @property
    def images(self) -> int:
        """Images seen."""
        return self.points[-1].position if self.points else 0

    @property
    def has_ended(self) -> bool:
        """Whether it will never run again."""
        return self.state != "running"


class Ledger:
    """The records of a sweep, in memory and in its folder. One process writes: the one that holds the sweep's lease."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.records: dict[str, Record] = {}
        folder = storage.join(_FOLDER)
        names = sorted(name for name, _, is_dir in storage.list(folder) if not is_dir and name.endswith(".json"))
        for name in names:
            record = _parse(storage.read_bytes(storage.join(_FOLDER, name)))
            self.records[record.name] = record
        self._order = max((point.order for record in self.records.values() for point in record.points), default=-1)

    def in_order(self) -> list[Record]:
        """All records by number."""
        return sorted(self.records.values(), key=lambda record: (record.generation, record.index))

    def next_order(self) -> int:
        """The place of the next measurement."""
        self._order += 1
        return self._order

    def save(self, record: Record) -> None:
        """Keep a record, replacing that of the same name."""
        self.records[record.name] = record
        path = self._storage.join(_FOLDER, f"{record.name}.json")
        self._storage.write_bytes(path, json.dumps(asdict(record), indent=1).encode())


def _parse(content: bytes) -> Record:
    values = json.loads(content)
    points = [Point(**point) for point in values.pop("points")]
    return Record(points=points, **values)


def best_of(records: list[Record]) -> Record | None:
    """The finished trial with the highest value."""
    finished = [record for record in records if record.state == "finished" and record.value is not None]
    return max(finished, key=lambda record: (record.value, -record.index), default=None)
