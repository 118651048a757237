"""How long a run waits for what may never come."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds. One value for a whole run, carried by its job."""

    lease_renewal: float = 10.0
    """Between two renewals of a run's lease."""
    lease_watch: float = 25.0
    """To watch whether another process renews its lease, before the run is taken over."""
    lease_look: float = 1.0
    """Between two looks at it."""
    retry: float = 10.0
    """Before the first of `run.retries`; twice as long before each further one."""
    look: float = 5.0
    """Longest time in which a group of workers does not hear that it must save."""
    save: float = 90.0
    """For a checkpoint that somebody waits for."""
    stop: float = 30.0
    """For the end of a group that was asked to save: steps done meanwhile would be done again."""
    finish: float = 600.0
    """For storage that fails when the last checkpoint is written, and for evaluations that still run then."""
    replay: float = 300.0
    """For the steps since the last checkpoint, done again to see where a loss that is not finite comes from."""
    line: float = 5.0
    """Between two lines of progress."""


USUAL_PATIENCE = Patience()
