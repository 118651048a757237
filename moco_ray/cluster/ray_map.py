"""Work on many things by Ray actors on any nodes: what a lost one had in hand is done again by others.

Plain actors and not Ray Data's: results are taken as they come and no further ahead than a few, an error that a user can
mend arrives as what it was, and a lost node costs what it had in hand, whatever the others are doing.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from moco_ray.tasks.failure import RunFailed
from moco_ray.worker.pool import AT_ONCE
from moco_ray.worker.runtime import compute_threads

if TYPE_CHECKING:
    from ray import ObjectRef

log = logging.getLogger(__name__)

_MOST_LOSSES = 5  # of one item, or of workers in a row that never began
_WAIT_S, _SAY_EVERY_S = 1.0, 60.0
_AHEAD = 4  # items for each worker, of the oldest that is not done

T = TypeVar("T")
R = TypeVar("R")


class _Worker:
    """Runs in its own process."""

    def start(self, make: Callable[[], Any], workers_here: int) -> None:
        """Make what the work is done with; not in __init__, whose errors Ray reports as those of a lost actor.

        Args:
            make: Makes it.
            workers_here: Workers that share the node's CPUs to compute; 0 where each has a GPU.
        """
        if workers_here:
            torch.set_num_threads(compute_threads(workers_here))
        self.made = make()

    def do(self, work: Callable[..., Any], item: Any, shared: tuple[Any, ...]) -> Any:
        """Do the work to one item."""
        return work(self.made, item, *shared)


class RayPool:
    """Actors, each with its own share of the cluster; those that find no room yet begin when there is some."""

    def __init__(
        self,
        make: Callable[[], Any],
        *,
        count: int,
        resources: dict[str, float],
        label: dict[str, str] | None = None,
    ) -> None:
        """Start the actors.

        Args:
            make: Makes what each works with, in its process.
            count: How many actors.
            resources: Ray resources of each.
            label: Ray node label of where they run; None: anywhere.
        """
        import ray

        self._make, self._count = ray.put(make), count
        others = {name: amount for name, amount in resources.items() if name not in ("CPU", "GPU")}
        actor: Any = ray.remote(_Worker)
        self._actor = actor.options(
            num_cpus=resources.get("CPU", 1.0),
            num_gpus=resources.get("GPU", 0.0),
            resources=others,
            label_selector=label,
            max_concurrency=AT_ONCE,
            scheduling_strategy="SPREAD",
        )
        nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
        self._workers_here = 0 if resources.get("GPU") else math.ceil(count / max(1, nodes))
        self._starting: dict[ObjectRef[Any], Any] = {}
        self._ready: list[Any] = []
        self._failed_starts = 0
        for _ in range(count):
            self._start_one()

    def map(self, work: Callable[..., R], items: Sequence[T], *shared: Any) -> Iterator[tuple[int, R]]:
        """Do the work; see `moco_ray.worker.pool.Pool`."""
        import ray

        reference = ray.put(shared)
        waiting, running = deque(range(len(items))), dict[Any, tuple[Any, int]]()
        losses = Counter[int]()
        said_s = time.monotonic()
        while waiting or running:
            self._hand_out(work, items, reference, waiting, running)
            done, _ = ray.wait([*running, *self._starting], num_returns=1, timeout=_WAIT_S)
            if done:
                said_s = time.monotonic()
            elif not running and time.monotonic() - said_s >= _SAY_EVERY_S:
                said_s = time.monotonic()
                log.info("waiting for the cluster to have room for a worker")
            for finished in done:
                if finished in self._starting:
                    self._finish_start(finished)
                    continue
                actor, place = running.pop(finished)
                try:
                    result = ray.get(finished)
                except ray.exceptions.RayTaskError as error:
                    raise _cause(error) from error
                except ray.exceptions.RayError as error:
                    losses[place] += 1
                    self._replace(actor, error, losses[place])
                    waiting.appendleft(place)
                else:
                    yield place, result
                    del result

    def close(self) -> None:
        """End the actors."""
        import ray

        for actor in [*self._ready, *self._starting.values()]:
            with suppress(Exception):  # the cluster may be gone
                ray.kill(actor)
        self._ready, self._starting = [], {}

    def _hand_out(
        self,
        work: Callable[..., Any],
        items: Sequence[Any],
        shared: ObjectRef[Any],
        waiting: deque[int],
        running: dict[Any, tuple[Any, int]],
    ) -> None:
        """Give each actor as much as it does at once."""
        busy = Counter(id(actor) for actor, _ in running.values())
        oldest = min([place for _, place in running.values()], default=None)
        while waiting and self._ready:
            if oldest is not None and waiting[0] - oldest > _AHEAD * self._count:
                return
            actor = min(self._ready, key=lambda actor: busy[id(actor)])
            if busy[id(actor)] >= AT_ONCE:
                return
            place = waiting.popleft()
            running[actor.do.remote(work, items[place], shared)] = (actor, place)
            busy[id(actor)] += 1
            oldest = place if oldest is None else min(oldest, place)

    def _start_one(self) -> None:
        actor = self._actor.remote()
        self._starting[actor.start.remote(self._make, self._workers_here)] = actor

    def _finish_start(self, started: ObjectRef[Any]) -> None:
        """Take a worker that has begun, or start another.

        Raises:
            ValueError: What it works with cannot be made; so with OSError.
            RunFailed: Several in a row were lost while they began.
        """
        import ray

        actor = self._starting.pop(started)
        try:
            ray.get(started)
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from error
        except ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= _MOST_LOSSES:
                raise RunFailed(f"{self._failed_starts} workers in a row were lost as they began: {error}") from error
            self._start_one()
        else:
            self._failed_starts = 0
            self._ready.append(actor)

    def _replace(self, actor: Any, error: Exception, losses: int) -> None:
        """Start another actor in the place of one that is lost.

        Raises:
            RunFailed: What it had in hand has been lost too often.
        """
        import ray

        if losses >= _MOST_LOSSES:
            raise RunFailed(f"{losses} workers in a row were lost with the same images in hand: {error}") from error
        if actor not in self._ready:
            return  # it had several in hand
        with suppress(Exception):
            ray.kill(actor)
        self._ready.remove(actor)
        log.info(f"a worker was lost ({type(error).__name__}): what it had in hand is done again")
        self._start_one()


def _cause(error: Exception) -> Exception:
    """What a worker raised, where a user can mend it; else a failure that names it."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, ValueError | OSError | RunFailed):
        return cause
    return RunFailed(f"a worker failed ({type(cause).__name__}: {cause})")
