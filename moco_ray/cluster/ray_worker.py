"""A worker of a Ray Train group: what it asks of its surroundings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from moco_ray.cluster.notes import Notes
from moco_ray.cluster.ray_stream import rank_blocks, ray_segment
from moco_ray.data.blocks import Block, Source, StreamSpec
from moco_ray.run_folder.lease import StepDone
from moco_ray.worker.follower import Follower
from moco_ray.worker.runtime import STOPPED, Pulse, T

if TYPE_CHECKING:
    from ray import ObjectRef

    from moco_ray.tasks.job import Job


_NOTE_EVERY_S = 0.05  # less than a step takes: a killed worker's last note says how many it had done


@dataclass(kw_only=True)
class RayRuntime:
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
            parts = ray_segment(
                self.spec,
                self.source,
                first_step,
                last_step,
                self.num_ranks,
                label=self.data_label,
                name=self.notes.owner,
            )
        return rank_blocks(self.from_rank_zero(parts)[self.rank])  # type: ignore[index]

    def user_error(self) -> str | None:
        """What a worker of an earlier group noted."""
        return self.notes.user_error()

    def starts_without_progress(self, step: int) -> int:
        """Count this start."""
        return self.notes.count_start(step)

    def group_before(self) -> tuple[str, StepDone | None] | None:
        """What the controller and rank 0 of the last group noted, or else the lease of a driver that was stopped."""
        cause, step = self.notes.take_cause(), self.notes.newest_step()
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
        self._request = self.notes.request_to_save()
        return self._request is not None

    def has_saved(self) -> None:
        """Answer the controller."""
        if self._request is not None:
            self.notes.meet(self._request)

    def _keep_noting(self) -> None:
        noted = None
        while True:
            if (newest := self._pulse.newest) is not None and newest != noted:
                with suppress(Exception):  # it would only make a report less exact
                    self.notes.note_step(newest)
                    noted = newest
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

    def followers(self, job: Job, num_interruptions: int) -> Mapping[str, Callable[[], Follower]]:
        """The gauges of Ray."""
        from moco_ray.cluster.gauges import Gauges

        return {"Ray's metrics": partial(Gauges, job, self.num_ranks, num_interruptions)}
