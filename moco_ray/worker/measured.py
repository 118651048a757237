"""What steps have measured, read when the device is done with them and not before."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import torch

from moco_ray.core.step_result import StepResult

_STEPS_IN_FLIGHT = {"cuda": 2, "cpu": 0}

Values = dict[str, float | int]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How a loop has gone since it was last looked at."""

    steps_per_s: float
    """Steps a second."""
    wait_fraction: float
    """Share of the time in which it waited for data."""


@dataclass(kw_only=True)
class Measured:
    """Results of a loop that runs a few steps ahead of its device, and no more: what it waits for, the device does too."""

    device: torch.device
    """Where the steps are computed."""
    first: int
    """Number of the step that is read next."""
    _in_flight: deque[tuple[StepResult, torch.cuda.Event | None]] = field(default_factory=deque, init=False)
    _done: list[Values] = field(default_factory=list, init=False)

    def add(self, result: StepResult) -> None:
        """Note the results of a step, and wait until the device is at most some steps behind."""
        if self.device.type == "cuda":
            totals = torch.empty_like(result.totals, device="cpu", pin_memory=True)
            totals.copy_(result.totals, non_blocking=True)
            event = torch.cuda.Event(blocking=True)  # a wait that spins would take a core from the data
            event.record()
            self._in_flight.append((replace(result, totals=totals), event))
        else:
            self._in_flight.append((result, None))
        self._wait(_STEPS_IN_FLIGHT[self.device.type])

    def take(self, *, everything: bool) -> tuple[int, list[Values]]:
        """The first step that was not taken before, and what it and those after it measured.

        Args:
            everything: Wait for the last step; else for none, and as many are left on every rank.
        """
        if everything:
            self._wait(0)
        first, values = self.first, self._done
        self.first, self._done = first + len(values), []
        return first, values

    def _wait(self, most: int) -> None:
        while len(self._in_flight) > most:
            result, event = self._in_flight.popleft()
            if event is not None:
                event.synchronize()
            self._done.append(result.values())
