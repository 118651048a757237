"""What follows a run beside its record: curves, trackers, gauges. This one follows nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moco_ray.run_folder.metrics import Line


class Follower:
    """Is told what a run measures; only rank 0 has any."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take what a step has measured, as soon as it is known; after a failure the step may come again."""

    def commit(self, lines: Sequence[Line], evaluations: Sequence[Line]) -> None:
        """Take lines that no failure can undo any more. Called by the thread that has written a checkpoint.

        Args:
            lines: Of metrics.jsonl, since the last time.
            evaluations: All of eval.jsonl.
        """

    def files(self) -> dict[str, bytes]:
        """Path in the run's folder and content of what must be sent there with a checkpoint."""
        return {}

    def close(self, *, is_done: bool) -> None:
        """Stop, within a bounded time; called once.

        Args:
            is_done: Whether the run has reached its last step.
        """
