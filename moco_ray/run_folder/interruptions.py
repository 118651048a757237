"""What interruptions have cost a run: seconds without a step, and steps that were done twice."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from moco_ray.run_folder.lease import StepDone
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.storage.storage import Storage

log = logging.getLogger(__name__)
INTERRUPTIONS = "interruptions.jsonl"

Line = dict[str, Any]


class Interruptions:
    """The record of a run's interruptions, in a file of its own: it must survive what interrupts."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lines: list[Line] = stored_lines(storage, INTERRUPTIONS)
        self._open: Line | None = None
        self._last_done_s = 0.0

    @property
    def count(self) -> int:
        """How many there were, with one that has just begun."""
        return len(self._lines) + (self._open is not None)

    def begin(self, cause: str, last: StepDone | None, step: int, num_workers: int) -> None:
        """A group of workers starts after another one ended.

        Args:
            cause: Why the one before ended.
            last: The newest step it is known to have done.
            step: Steps done in the checkpoint that this group starts from.
            num_workers: Workers of this group.
        """
        last_step, self._last_done_s = last or (step, time.time())
        redone = max(0, last_step - step)
        self._open = {"cause": cause, "resumed_at_step": step, "steps_redone": redone, "num_workers": num_workers}
        workers = f"{num_workers} worker{'s' if num_workers > 1 else ''}"
        log.info(f"interrupted: {cause}; going on from step {step:,} with {workers}, {redone} steps are redone")

    def end(self) -> None:
        """The group has done its first step; called once, and again to no effect."""
        if self._open is None:
            return
        line, self._open = self._open, None
        line["seconds"] = max(0.0, round(time.time() - self._last_done_s, 1))  # clocks of two machines may differ
        line["at_s"] = round(time.time(), 1)
        self._lines.append(line)
        log.info(
            f"the interruption cost {line['seconds']:.1f} s without a step and {line['steps_redone']} steps redone"
        )
        try:
            self._storage.write_bytes(
                self._storage.join(INTERRUPTIONS), "".join(json.dumps(one) + "\n" for one in self._lines).encode()
            )
        except (OSError, ValueError) as error:
            log.warning(f"{INTERRUPTIONS} could not be written now ({error})")

    def sum_up(self) -> None:
        """Say what all of them cost."""
        if not self._lines:
            return
        seconds, steps = (sum(line[name] for line in self._lines) for name in ("seconds", "steps_redone"))
        times = f"{len(self._lines)} time{'s' if len(self._lines) > 1 else ''}"
        log.info(
            f"interrupted {times}: {seconds:,.0f} s without a step and {steps:,} steps redone in all ({INTERRUPTIONS})"
        )
