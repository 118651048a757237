"""What a rank keeps of its run: nothing. Rank 0 has a `FolderRecorder`."""

from __future__ import annotations

from moco_ray.data.stream import BadRow
from moco_ray.run_folder.checkpoint import State
from moco_ray.tasks.learner import Learner
from moco_ray.worker.measured import Pace, Values


class Recorder:
    """Keeps nothing."""

    keeps = False
    """Whether states are kept here; who keeps none need not copy any."""

    def begin(self) -> None:
        """Say what comes."""

    def done(self, step: int) -> None:
        """Note that so many steps are done."""

    def add_steps(self, first: int, values: list[Values], pace: Pace, learner: Learner) -> None:
        """Add the lines of steps from `first` on; the last one carries the metrics of the interval."""

    def add_bad(self, bad: list[BadRow]) -> None:
        """Note rows that cannot be had or do not decode; each counts once."""

    def too_many_bad(self, step: int) -> str | None:
        """A sentence when more images are bad than the user accepts; the list is in the run's folder then."""
        return None

    def collapse(self) -> str | None:
        """Why it is of no use to go on, where the user wants to stop then."""
        return None

    def wants_checkpoint(self, step: int) -> bool:
        """Whether a checkpoint is due and can be written now; one that cannot stays due."""
        return False

    def is_asked_to_save(self) -> bool:
        """Whether the group is to save before it is stopped."""
        return False

    def checkpoint(self, step: int, state: State | None) -> None:
        """Write a checkpoint in the background, with the lines since the last one."""

    def wait_until_saved(self, step: int, why: str) -> None:
        """Wait for the checkpoint that is being written, and say so; storage that keeps failing is given up."""

    def has_saved(self) -> None:
        """Say that everything up to now is saved."""

    def evaluate(self, step: int, state: State | None, *, may_wait: bool = False) -> None:
        """Measure what was learned by this step, beside training where there is room.

        Args:
            step: Steps done.
            state: A copy of everything.
            may_wait: Let the first loss come before training waits for the measurement.
        """

    def last_checkpoint_text(self) -> str:
        """Which checkpoint a stopped run can go back to."""
        return ""

    def saved_step(self) -> int | None:
        """Its steps; None without one."""
        return None

    def finish(self, step: int, state: State | None) -> None:
        """Wait for what is on its way, and write what a finished run leaves; also if that was cut short before."""

    def close(self) -> None:
        """Let go of what follows the run, however it ended."""

    def summary(self) -> dict[str, float] | None:
        """Last values of all metrics."""
        return None
