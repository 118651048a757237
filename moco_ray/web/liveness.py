"""Which runs are alive, and how fast they go, as one look at their leases after another tells."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moco_ray.config.patience import USUAL_PATIENCE, Patience
from moco_ray.run_folder.found import FoundRun
from moco_ray.run_folder.lease import LEASE, is_held
from moco_ray.storage.local import FileInfo

_WINDOW_S = 300.0  # of the pace that is shown
_TAIL = 1 << 16
_RATE = "perf/images_per_s"


@dataclass(kw_only=True)
class Liveness:
    """What the leases of one run have told so far. Nobody waits: what one look leaves open, a later one decides."""

    patience: Patience = USUAL_PATIENCE
    """With a lease of which only its renewal tells whether anybody holds it."""
    lease: dict[str, Any] = field(default_factory=dict)
    """The newest one."""
    _info: FileInfo | None = None
    _since: float = 0.0
    _is_renewed: bool = False
    _steps: deque[tuple[int, float]] = field(default_factory=deque)
    _tail: tuple[str, float | None] = ("", None)

    def knows(self, run: FoundRun) -> bool:
        """Whether the run's lease has not been written since the last look."""
        return run.files.get(LEASE) == self._info

    def look(self, run: FoundRun, lease: Mapping[str, Any], now: float) -> None:
        """Take in a lease that was read.

        Args:
            run: As it was listed.
            lease: Empty if there is none.
            now: Of a clock that only goes forward.
        """
        self._is_renewed = bool(self.lease) and bool(lease.get("owner")) and lease != self.lease
        self._info, self.lease, self._since = run.files.get(LEASE), dict(lease), now
        step = lease.get("last_step")
        if isinstance(step, list) and len(step) == 2 and all(isinstance(one, int | float) for one in step):
            self._add(int(step[0]), float(step[1]))

    def is_live(self, now: float) -> bool | None:
        """Whether somebody holds the run; None as long as that is not known."""
        held = is_held(self.lease, self.patience)
        if held is not None:
            return held
        if now - self._since >= self.patience.lease_watch:
            return False
        return True if self._is_renewed else None

    def images_per_s(self, run: FoundRun, batch: int) -> float | None:
        """How fast the run goes: by its leases, or as its newest metrics say."""
        if len(self._steps) > 1:
            (first, began), (last, ended) = self._steps[0], self._steps[-1]
            if last > first and ended > began:
                return batch * (last - first) / (ended - began)
        parts = [path for path in run.files if path.startswith("metrics/")]
        if parts and self._tail[0] != max(parts):
            self._tail = max(parts), _last_rate(run, max(parts))
        return self._tail[1]

    def _add(self, step: int, when: float) -> None:
        if self._steps and step < self._steps[-1][0]:  # steps are done again
            self._steps.clear()
        if not self._steps or step > self._steps[-1][0]:
            self._steps.append((step, when))
        while when - self._steps[0][1] > _WINDOW_S and len(self._steps) > 2:
            self._steps.popleft()


def _last_rate(run: FoundRun, path: str) -> float | None:
    """The newest rate in a file of metrics, of which no more than its end is read."""
    try:
        with run.storage.open_file(run.storage.join(*path.split("/"))) as file:
            file.seek(max(0, run.files[path][0] - _TAIL))
            lines = file.read(_TAIL).splitlines()
    except (ValueError, OSError):
        return None
    for text in reversed(lines):
        try:
            return float(json.loads(text)[_RATE])
        except (ValueError, KeyError, TypeError):
            continue
    return None


def clock() -> float:
    """Seconds of a clock that only goes forward."""
    return time.monotonic()
