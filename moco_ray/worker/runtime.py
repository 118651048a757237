"""What a worker asks of its surroundings; and one alone in this process. The worker's loop does not know which it has."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from moco_ray.data.blocks import Block, Source, StreamSpec
from moco_ray.data.segments import local_segment
from moco_ray.run_folder.lease import StepDone
from moco_ray.worker.follower import Follower

if TYPE_CHECKING:
    from moco_ray.tasks.job import Job

STOPPED, LEAVING = "the run was stopped", "a node of the group is being taken away"
"""Causes of interruptions."""

T = TypeVar("T")


def compute_threads(workers_here: int) -> int:
    """Threads of each worker's arithmetic: one core is left to the data, whose tasks would stall all the others."""
    return max(1, ((os.cpu_count() or 1) - 1) // workers_here)


@dataclass
class Pulse:
    """The newest step that is done."""

    newest: StepDone | None = None
    """Steps done, and when the last of them was."""


class Runtime(Protocol):
    """What a worker asks of its surroundings."""

    rank: int
    """Number of this worker, from 0."""
    num_ranks: int
    """Workers in all."""

    def from_rank_zero(self, value: T) -> T:
        """Rank 0's value, on every rank. All ranks must call."""
        ...

    def open_segment(self, first_step: int, last_step: int) -> Iterable[Block]:
        """This rank's blocks of a run of steps. All ranks must call."""
        ...

    def user_error(self) -> str | None:
        """What the user must mend, if that is why the group before this one failed."""
        ...

    def starts_without_progress(self, step: int) -> int:
        """How often groups have now started in a row from a checkpoint of this step. Rank 0 calls, once."""
        ...

    def group_before(self) -> tuple[str, StepDone | None] | None:
        """Why the group of workers before this one ended, and its newest step; None for the first of a run."""
        ...

    def done(self, step: int) -> None:
        """Remember that so many steps are done, for the group after this one. Rank 0 calls after every step."""
        ...

    def is_losing_a_node(self) -> bool:
        """Whether one of the workers' nodes is about to be taken away. All ranks must call."""
        ...

    def is_asked_to_save(self) -> bool:
        """Whether the group is to save before it is stopped. Rank 0 calls."""
        ...

    def has_saved(self) -> None:
        """Say that everything up to now is saved. Rank 0 calls."""
        ...

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Callable[[], Any | None] | None:
        """Start work where a slot is free, and return a poll: None while it runs, then its result.

        Returns None where no slot is free. The poll raises what the work raised.
        """
        ...

    def followers(self, job: Job, num_interruptions: int) -> Mapping[str, Callable[[], Follower]]:
        """What makes those that follow a run in these surroundings, by name. Rank 0 calls."""
        ...


@dataclass(kw_only=True)
class LocalRuntime:
    """One worker in this process; threads prepare its data."""

    spec: StreamSpec
    """What is streamed."""
    source: Source
    """From where."""
    pulse: Pulse
    """Where the newest step is noted."""
    before: StepDone | None
    """The newest step of an attempt that was stopped."""
    rank: int = 0
    num_ranks: int = 1

    def from_rank_zero(self, value: T) -> T:
        """The value itself."""
        return value

    def open_segment(self, first_step: int, last_step: int) -> Iterable[Block]:
        """All blocks of a run of steps."""
        return local_segment(self.spec, self.source, first_step, last_step)

    def user_error(self) -> str | None:
        """None: errors are raised to the caller."""
        return None

    def starts_without_progress(self, step: int) -> int:
        """One: nothing restarts by itself."""
        return 1

    def group_before(self) -> tuple[str, StepDone | None] | None:
        """The attempt before this one, if it was stopped."""
        return (STOPPED, self.before) if self.before else None

    def done(self, step: int) -> None:
        """Note the step."""
        self.pulse.newest = (step, time.time())

    def is_losing_a_node(self) -> bool:
        """Nobody would say so."""
        return False

    def is_asked_to_save(self) -> bool:
        """Nobody asks."""
        return False

    def has_saved(self) -> None:
        """Nobody waits for it."""

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Callable[[], Any | None] | None:
        """Nothing is free beside the one worker."""
        return None

    def followers(self, job: Job, num_interruptions: int) -> Mapping[str, Callable[[], Follower]]:
        """None."""
        return {}
