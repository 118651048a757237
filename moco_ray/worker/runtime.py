"""Where a worker runs: inside Ray Train, or alone in this process. The worker's loop does not know which."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from moco_ray.cluster.notes import Notes
from moco_ray.data.blocks import Block, Source, StreamSpec
from moco_ray.data.segments import local_segment, rank_blocks, ray_segment
from moco_ray.run_folder.lease import StepDone

if TYPE_CHECKING:
    from ray import ObjectRef

_NOTE_EVERY_S = 0.05  # less than a step takes: a killed worker's last note says how many it had done
_FOLLOW_EVERY_S = 1.0
STOPPED = "the run was stopped"

T = TypeVar("T")


@dataclass
class Pulse:
    """The newest step that is done."""

    newest: StepDone | None = None
    """Steps done, and when the last of them was."""


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


class Place(Protocol):
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


@dataclass(kw_only=True)
class ThisProcess:
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


@dataclass(kw_only=True)
class RayTrainWorker:
    """A worker of a Ray Train group; rank 0 plans the stream and hands out its parts."""

    spec: StreamSpec
    """What is streamed."""
    source: ObjectRef[Source]
    """From where; in the object store, so that each node holds it once."""
    uses_gpu: bool
    """Whether the workers train on GPUs."""
    notes: Notes
    """What one group of workers leaves for the next."""
    data_label: dict[str, str] | None
    """Label of the nodes for data."""
    before: StepDone | None
    """The newest step of a driver that was stopped."""
    rank: int
    num_ranks: int
    _pulse: Pulse = field(default_factory=Pulse, init=False)
    _is_noting: bool = field(default=False, init=False)
    _request: str | None = field(default=None, init=False)

    def from_rank_zero(self, value: T) -> T:
        """Rank 0's value, through the controller of the group: for small values. All ranks must call."""
        from ray.train.collective import broadcast_from_rank_zero

        received: T = broadcast_from_rank_zero(value if self.rank == 0 else None)
        return received

    def open_segment(self, first_step: int, last_step: int) -> Iterable[Block]:
        """Let rank 0 plan the segment and read this rank's part of it. All ranks must call."""
        parts = None
        if self.rank == 0:
            parts = ray_segment(self.spec, self.source, first_step, last_step, self.num_ranks, label=self.data_label)
        return rank_blocks(self.from_rank_zero(parts)[self.rank])  # type: ignore[index]

    def user_error(self) -> str | None:
        """What a worker of an earlier group noted."""
        return self.notes.read("user_error")

    def starts_without_progress(self, step: int) -> int:
        """Count this start."""
        last_step, count = read_starts(self.notes)
        starts = count + 1 if last_step == step else 1
        self.notes.write("starts", f"{step} {starts}")
        return starts

    def group_before(self) -> tuple[str, StepDone | None] | None:
        """What the controller and rank 0 of the last group noted, or else the lease of a driver that was stopped."""
        cause, step = self.notes.read("cause"), read_step(self.notes)
        self.notes.delete("cause")
        if cause is None and step is None:
            return (STOPPED, self.before) if self.before else None
        return cause or "the workers were restarted", step or self.before

    def done(self, step: int) -> None:
        """Note the step, from a thread: the loop does not wait for the cluster's store."""
        self._pulse.newest = (step, time.time())
        if not self._is_noting:
            self._is_noting = True
            threading.Thread(target=self._keep_noting, name="pulse", daemon=True).start()

    def is_losing_a_node(self) -> bool:
        """What Ray Train has heard of nodes that are drained or reclaimed; agreed among all ranks."""
        from ray.train import get_preemption_info

        return get_preemption_info() is not None

    def is_asked_to_save(self) -> bool:
        """Whether the controller has asked since the last save."""
        self._request = self.notes.read("save")
        return self._request is not None and self._request != self.notes.read("saved")

    def has_saved(self) -> None:
        """Answer the controller."""
        if self._request is not None:
            self.notes.write("saved", self._request)

    def _keep_noting(self) -> None:
        noted = None
        while True:
            if self._pulse.newest != noted:
                with suppress(Exception):  # it would only make a report less exact
                    noted = self._pulse.newest
                    write_step(self.notes, noted)
            time.sleep(_NOTE_EVERY_S)

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Callable[[], Any | None] | None:
        """Run work as a Ray task where the cluster has a free GPU (CPU, if workers train on CPUs)."""
        import ray

        resource = "GPU" if self.uses_gpu else "CPU"
        nodes = ray._private.state.available_resources_per_node()  # type: ignore[no-untyped-call]
        if not any(free.get(resource, 0.0) >= 1.0 for free in nodes.values()):
            return None
        task = ray.remote(num_cpus=0 if self.uses_gpu else 1, num_gpus=1 if self.uses_gpu else 0, max_retries=0)
        reference = task(work).remote(*arguments)

        def poll() -> Any | None:
            done, _ = ray.wait([reference], timeout=0)
            return ray.get(reference) if done else None

        return poll
