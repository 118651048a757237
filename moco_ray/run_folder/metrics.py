"""The record of a run: one line a step, in parts that are committed with checkpoints."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moco_ray.storage.storage import Storage

log = logging.getLogger(__name__)
_FOLDER = "metrics"
_PART = re.compile(r"(\d+)-(\d+)\.jsonl")

Line = dict[str, Any]


@dataclass
class StepLines:
    """Lines of the steps since the last part."""

    lines: list[Line] = field(default_factory=list)
    """In step order, without a gap."""

    def add(self, line: Line) -> None:
        """Add the line of the next step."""
        assert not self.lines or line["step"] == self.lines[-1]["step"] + 1
        self.lines.append(line)

    def take_part(self) -> dict[str, bytes]:
        """Path and content of the part that these lines make, and start anew; empty without lines."""
        if not self.lines:
            return {}
        first, last = self.lines[0]["step"], self.lines[-1]["step"]
        content = "".join(metrics_line(line) for line in self.lines)
        self.lines = []
        return {f"{_FOLDER}/{first:09d}-{last:09d}.jsonl": content.encode()}


def delete_provisional_parts(storage: Storage, step: int) -> None:
    """Delete the parts of steps that the checkpoint after `step` steps does not know; they are done again."""
    for first, last, path in _parts(storage):
        if last >= step:
            assert first >= step, f"{path} straddles the checkpoint of step {step}"
            storage.delete(path)


def join_parts(storage: Storage) -> bytes:
    """Join all parts into metrics.jsonl.

    Args:
        storage: The run's folder.

    Raises:
        RuntimeError: The parts overlap.
    """
    content, expected = b"", 0
    for first, last, path in _parts(storage):
        if first < expected:
            raise RuntimeError(f"{storage.uri(path)} holds steps that the part before it holds, too")
        if first > expected:
            log.warning(
                f"the metrics of steps {expected:,} to {first - 1:,} are missing before {storage.uri(path)}; "
                "metrics.jsonl goes on without them"
            )
        content += storage.read_bytes(path)
        expected = last + 1
    return content


def parts_before(storage: Storage, step: int) -> dict[str, bytes]:
    """Path and content of the parts of the first `step` steps."""
    wanted = [path for _, last, path in _parts(storage) if last < step]
    return {f"{_FOLDER}/{path.rsplit('/', 1)[-1]}": storage.read_bytes(path) for path in wanted}


def lines_of_steps(storage: Storage, first: int, end: int) -> list[Line]:
    """The lines of the steps from `first` on, up to the one before `end`, of which all parts are committed."""
    wanted = [path for since, last, path in _parts(storage) if last >= first and since < end]
    lines = [json.loads(line) for path in wanted for line in storage.read_bytes(path).splitlines()]
    return [line for line in lines if first <= line["step"] < end]


def stored_lines(storage: Storage, name: str) -> list[Line]:
    """Parse a file of JSON lines in a run's folder; none if there is no such file.

    Raises:
        ValueError: It is damaged.
    """
    path = storage.join(name)
    content = storage.read_bytes(path) if storage.exists(path) else b""
    lines = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            lines.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{storage.uri(path)}: line {number} is damaged ({error}); put the file back from a copy, or delete that line"
            ) from error
    return lines


def best_line(lines: Sequence[Line], best_by: str | None) -> Line | None:
    """Of lines of eval.jsonl the one with the highest value of a measure, the first of several; of training, not before it."""
    by = best_by or ""
    scored = [line for line in lines if by in line and line["step"] > 0]
    return max(scored, key=lambda line: line[by]) if scored else None


def _parts(storage: Storage) -> list[tuple[int, int, str]]:
    folder = storage.join(_FOLDER)
    if not storage.exists(folder):
        return []
    matches = [(_PART.fullmatch(name), name) for name, _, is_dir in storage.list(folder) if not is_dir]
    return sorted((int(m[1]), int(m[2]), storage.join(_FOLDER, name)) for m, name in matches if m)


if TYPE_CHECKING:
    pass
Metric = float | int | str | bool | None
"""What a metrics line may hold."""


def metrics_line(values: Mapping[str, Metric]) -> str:
    """Format metrics as one line of JSON, newline included, floats in full precision (they read back equal).

    Raises:
        ValueError: A value is NaN or infinite, which JSON cannot hold.
    """
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(
                f"metric {name} is {value}, which a metrics file cannot hold; "
                "a loss that diverged is often cured by a lower lr or a longer warm-up"
            )
    return json.dumps(dict(values), allow_nan=False) + "\n"
