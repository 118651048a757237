"""Short texts that outlive a group of workers: why it failed, how far it came, what it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moco_ray.run_folder.lease import StepDone
from moco_ray.worker.runtime import Pulse


@dataclass(frozen=True)
class Notes:
    """Texts by name in the cluster's key-value store.

    For one attempt at a run: user_error (what the user must mend), starts (how often groups have started in a row from one step),
    cause (why the last group ended), step (the newest step done), save (the controller asks for a checkpoint: any
    new text), saved (the request that has been met). For all attempts at a run on this cluster: requester (who holds
    its claim on nodes) and placement_group (of its workers).
    """

    owner: str
    """Unique name of the attempt, or of the run."""

    def write(self, name: str, text: str) -> None:
        """Replace a text."""
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(self._key(name), text.encode(), overwrite=True)

    def read(self, name: str) -> str | None:
        """Read a text; None if there is none."""
        from ray.experimental.internal_kv import _internal_kv_get

        value = _internal_kv_get(self._key(name))
        return value.decode() if value is not None else None

    def delete(self, name: str) -> None:
        """Delete a text, if there is one."""
        from ray.experimental.internal_kv import _internal_kv_del

        _internal_kv_del(self._key(name))

    def _key(self, name: str) -> str:
        return f"moco_ray/{self.owner}/{name}"


if TYPE_CHECKING:
    pass
_FOLLOW_EVERY_S = 1.0


def read_step(notes: Notes) -> StepDone | None:
    """The newest step that rank 0 has noted."""
    step, _, at_s = (notes.read("step") or "").partition(" ")
    return (int(step), float(at_s)) if step else None


def read_starts(notes: Notes) -> tuple[int, int]:
    """The checkpoint that the last group started from, and how many in a row have now; (-1, 0) before the first."""
    step, _, count = (notes.read("starts") or "-1 0").partition(" ")
    return int(step), int(count)


def newest_step(before: StepDone | None, notes: Notes, run_notes: Notes) -> StepDone | None:
    """The newest step of an attempt that was stopped, and from now on this is the attempt.

    Args:
        before: What the lease says, which is some seconds old; None if nothing was stopped.
        notes: Of this attempt.
        run_notes: Of all attempts on this cluster.
    """
    attempt = run_notes.read("attempt")
    run_notes.write("attempt", notes.owner)
    noted = read_step(Notes(attempt)) if attempt is not None else None
    return max(before, noted, key=lambda step: step[1]) if before and noted else before


def write_step(notes: Notes, step: StepDone | None) -> None:
    """Note a step."""
    if step is not None:
        notes.write("step", f"{step[0]} {step[1]}")


@contextmanager
def follow(notes: Notes, pulse: Pulse) -> Iterator[None]:
    """Inside, keep up with the newest step that rank 0 notes: the driver's view of its workers."""
    ended = threading.Event()

    def keep_up() -> None:
        while not ended.wait(_FOLLOW_EVERY_S):
            with suppress(Exception):  # it would only make a report less exact
                pulse.newest = read_step(notes) or pulse.newest

    thread = threading.Thread(target=keep_up, name="follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
