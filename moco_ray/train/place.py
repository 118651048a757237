"""Where a worker runs: inside Ray Train, or alone in this process. The worker's loop does not know which."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from moco_ray.data.blocks import Block, Source, StreamSpec
from moco_ray.data.stream import local_segment, rank_blocks, ray_segment
from moco_ray.train.notes import Notes

if TYPE_CHECKING:
    from ray import ObjectRef

T = TypeVar("T")


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
    rank: int
    num_ranks: int

    def from_rank_zero(self, value: T) -> T:
        """Rank 0's value, through the controller of the group: for small values. All ranks must call."""
        from ray.train.collective import broadcast_from_rank_zero

        received: T = broadcast_from_rank_zero(value if self.rank == 0 else None)
        return received

    def open_segment(self, first_step: int, last_step: int) -> Iterable[Block]:
        """Let rank 0 plan the segment and read this rank's part of it. All ranks must call."""
        parts = None
        if self.rank == 0:
            parts = ray_segment(self.spec, self.source, first_step, last_step, self.num_ranks)
        return rank_blocks(self.from_rank_zero(parts)[self.rank])  # type: ignore[index]

    def user_error(self) -> str | None:
        """What a worker of an earlier group noted."""
        return self.notes.read("user_error")

    def starts_without_progress(self, step: int) -> int:
        """Count this start."""
        last_step, _, count = (self.notes.read("starts") or "-1 0").partition(" ")
        starts = int(count) + 1 if int(last_step) == step else 1
        self.notes.write("starts", f"{step} {starts}")
        return starts

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Callable[[], Any | None] | None:
        """Run work as a Ray task where the cluster has a free GPU (CPU, if workers train on CPUs)."""
        import ray

        resource = "GPU" if self.uses_gpu else "CPU"
        if ray.available_resources().get(resource, 0.0) < 1.0:  # type: ignore[no-untyped-call]
            return None
        task = ray.remote(num_cpus=0 if self.uses_gpu else 1, num_gpus=1 if self.uses_gpu else 0, max_retries=0)
        reference = task(work).remote(*arguments)

        def poll() -> Any | None:
            done, _ = ray.wait([reference], timeout=0)
            return ray.get(reference) if done else None

        return poll
