"""How long workers have held their devices for a run, group after group."""

from __future__ import annotations

import time
from collections.abc import Mapping


class DeviceTime:
    """Counts from when a group of workers starts; rank 0 has one, and each checkpoint's marker says what it was then."""

    def __init__(self, before: Mapping[str, float], num_ranks: int, *, uses_gpu: bool) -> None:
        """Begin to count.

        Args:
            before: Seconds of the groups before, by kind of device.
            num_ranks: Workers, each with one device.
            uses_gpu: Whether that is a GPU; else it is as many CPUs as a worker takes.
        """
        self._before, self._num_ranks = dict(before), num_ranks
        self._kind = "cuda" if uses_gpu else "cpu"
        self._since_s = time.monotonic()

    def seconds(self) -> dict[str, float]:
        """Seconds times workers up to now, by kind of device."""
        now = self._num_ranks * (time.monotonic() - self._since_s)
        return {**self._before, self._kind: round(self._before.get(self._kind, 0.0) + now, 1)}
