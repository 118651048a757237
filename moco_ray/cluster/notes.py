"""What processes of a run tell those that come after them, in the cluster's store: it outlives a group and its controller."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from moco_ray.cluster.store import ClusterStore
from moco_ray.run_folder.lease import StepDone
from moco_ray.worker.runtime import Pulse

_FOLLOW_EVERY_S = 1.0


@dataclass(frozen=True)
class _Texts:
    """Texts by name."""

    owner: str
    """Unique name of whom they are about."""

    def _write(self, name: str, text: str) -> None:
        ClusterStore().put(f"{self.owner}/{name}", text.encode())

    def _read(self, name: str) -> str | None:
        value = ClusterStore().get(f"{self.owner}/{name}")
        return value.decode() if value is not None else None

    def _delete(self, name: str) -> None:
        ClusterStore().delete(f"{self.owner}/{name}")


class Notes(_Texts):
    """Of one attempt at a run: why a group ended, how far it came, and what its controller asks of it."""

    def note_user_error(self, message: str) -> None:
        """Tell the next group what the user must mend."""
        self._write("user_error", message)

    def user_error(self) -> str | None:
        """What the user must mend, if that ended a group."""
        return self._read("user_error")

    def note_cause(self, cause: str) -> None:
        """Tell the next group why this one ends."""
        self._write("cause", cause)

    def note_failure(self, cause: str) -> None:
        """The same for a failure: the first one is the reason of those that follow."""
        if self._read("cause") is None:
            self._write("cause", cause)

    def take_cause(self) -> str | None:
        """Why the last group ended; None if nobody has said it, or it was taken already."""
        cause = self._read("cause")
        self._delete("cause")
        return cause

    def note_step(self, step: StepDone) -> None:
        """Note the newest step."""
        self._write("step", f"{step[0]} {step[1]}")

    def newest_step(self) -> StepDone | None:
        """The newest step that rank 0 has noted."""
        step, _, at_s = (self._read("step") or "").partition(" ")
        return (int(step), float(at_s)) if step else None

    def last_start(self) -> int:
        """Steps of the checkpoint that the last group started from; -1 before the first."""
        return self._starts()[0]

    def count_start(self, step: int) -> int:
        """Count a start from a checkpoint of so many steps; returns how many in a row have now begun there."""
        last, count = self._starts()
        count = count + 1 if last == step else 1
        self._write("starts", f"{step} {count}")
        return count

    def ask_to_save(self) -> None:
        """The controller asks the group for a checkpoint."""
        self._write("save", str(time.time()))

    def forget_request(self) -> None:
        """The controller asks no more."""
        self._delete("save")

    def is_saved(self) -> bool:
        """Whether the group has met the request."""
        return self._read("saved") == self._read("save")

    def request_to_save(self) -> str | None:
        """The request that has not been met yet, if there is one."""
        request = self._read("save")
        return request if request != self._read("saved") else None

    def meet(self, request: str) -> None:
        """Say that a request has been met."""
        self._write("saved", request)

    @contextmanager
    def followed_by(self, pulse: Pulse) -> Iterator[None]:
        """Inside, keep up with the newest step: the driver's view of its workers."""
        ended = threading.Event()

        def keep_up() -> None:
            while not ended.wait(_FOLLOW_EVERY_S):
                with suppress(Exception):  # it would only make a report less exact
                    pulse.newest = self.newest_step() or pulse.newest

        thread = threading.Thread(target=keep_up, name="follow", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _starts(self) -> tuple[int, int]:
        step, _, count = (self._read("starts") or "-1 0").partition(" ")
        return int(step), int(count)


class RunNotes(_Texts):
    """Of all attempts at a run on this cluster: the newest of them, and what it holds."""

    def begin_attempt(self, notes: Notes, before: StepDone | None) -> StepDone | None:
        """The newest step of an attempt that was stopped, and from now on this is the attempt.

        Args:
            notes: Of this attempt.
            before: What the lease says, which is some seconds old; None if nothing was stopped.
        """
        attempt = self._read("attempt")
        self._write("attempt", notes.owner)
        noted = Notes(attempt).newest_step() if attempt is not None else None
        return max(before, noted, key=lambda step: step[1]) if before and noted else before

    def note_requester(self, requester: str) -> None:
        """Note who holds the run's claim on nodes."""
        self._write("requester", requester)

    def requester(self) -> str | None:
        """Who held it last."""
        return self._read("requester")

    def note_placement_group(self, group: str) -> None:
        """Note the id of the workers' placement group, which outlives a controller that is killed."""
        self._write("placement_group", group)

    def placement_group(self) -> str | None:
        """That of the last workers."""
        return self._read("placement_group")
