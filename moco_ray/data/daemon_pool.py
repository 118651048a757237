"""Threads for requests that nobody has to wait for when the work is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonPool(Executor):
    """Runs functions on threads, as ThreadPoolExecutor does, but is left at once, as is the process.

    A request to a server that does not answer is repeated for minutes; ThreadPoolExecutor waits for all that are under
    way and in its queue, after Ctrl-C and where the interpreter exits, too.
    """

    def __init__(self, num_threads: int) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._num_threads = num_threads
        for _ in range(num_threads):
            threading.Thread(target=self._work, name="daemon-pool", daemon=True).start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function on one of the threads."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # for whoever asks for the result
                future.set_exception(error)

        self._tasks.put(run)
        return future

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Begin nothing more; what is under way goes on without anybody who waits."""
        try:
            while True:
                self._tasks.get_nowait()
        except Empty:
            for _ in range(self._num_threads):
                self._tasks.put(None)

    def _work(self) -> None:
        while (run := self._tasks.get()) is not None:
            run()
