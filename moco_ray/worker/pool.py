"""Workers that do the same to many things; and one in this process. Who asks them does not know which they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from moco_ray.data.daemon_pool import DaemonPool

AT_ONCE = 2
"""Things that a worker does at once: one is read while the other is computed."""
_AHEAD = 3

T = TypeVar("T")
R = TypeVar("R")


class Pool(Protocol):
    """Workers that each have made the same thing, an encoder for example."""

    def map(self, work: Callable[..., R], items: Sequence[T], *shared: Any) -> Iterator[tuple[int, R]]:
        """Do work(made, item, *shared) for every item, each exactly once as far as the caller sees.

        Args:
            work: A function of a module; two of its calls may run in one worker at once.
            items: Small values.
            shared: What each call needs beside its item: sent to each worker's node once.

        Yields:
            The place of an item and its result, in any order; no more results are made ahead than a few for each worker.

        Raises:
            ValueError: The work raised it; so with OSError.
            RunFailed: The workers are lost again and again.
        """
        ...

    def close(self) -> None:
        """Stop the workers."""
        ...


class LocalPool:
    """One worker in this process, of two threads."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._made = make()
        self._threads = DaemonPool(AT_ONCE)

    def map(self, work: Callable[..., R], items: Sequence[T], *shared: Any) -> Iterator[tuple[int, R]]:
        """Do the work, in order."""
        ahead: deque[tuple[int, Future[R]]] = deque()
        try:
            for place, item in enumerate(items):
                ahead.append((place, self._threads.submit(work, self._made, item, *shared)))
                if len(ahead) >= _AHEAD:
                    first, future = ahead.popleft()
                    yield first, future.result()
            while ahead:
                first, future = ahead.popleft()
                yield first, future.result()
        finally:
            for _, future in ahead:
                future.cancel()

    def close(self) -> None:
        """Leave the threads."""
        self._threads.shutdown()
