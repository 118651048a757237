"""Threads that nobody has to wait for when the work is stopped."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

_LAST_WAIT_S = 2.0

P = ParamSpec("P")
T = TypeVar("T")

_Task = tuple[Future[Any], Callable[[], Any]]

_threads: WeakSet[threading.Thread] = WeakSet()


class DaemonPool(Executor):
    """Runs functions on threads, as ThreadPoolExecutor does, but is left at once, as is the process.

    A request to a server that does not answer is repeated for minutes; ThreadPoolExecutor waits for all that are under
    way and in its queue, after Ctrl-C and where the interpreter exits, too.
    """

    def __init__(self, num_threads: int) -> None:
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._num_threads = num_threads
        for _ in range(num_threads):
            start_daemon(_work, self._tasks, name="daemon-pool")

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function on one of the threads."""
        future: Future[T] = Future()
        self._tasks.put((future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Begin nothing more, whatever the arguments; what is under way goes on, but nobody waits for it."""
        try:
            while True:
                if (task := self._tasks.get_nowait()) is not None:
                    task[0].cancel()
        except Empty:
            for _ in range(self._num_threads):
                self._tasks.put(None)


def start_daemon(work: Callable[..., None], *args: Any, name: str) -> None:
    """Start a thread that ends with the process, which gives it a moment to come to its own end."""
    thread = threading.Thread(target=work, args=args, name=name, daemon=True)
    thread.start()
    _threads.add(thread)


def _work(tasks: SimpleQueue[_Task | None]) -> None:
    while (task := tasks.get()) is not None:
        future, call = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except BaseException as error:  # for whoever asks for the result
                future.set_exception(error)
        del task, future, call  # with what they hold


@atexit.register
def _end() -> None:
    """Let what computes come to an end: a thread that the interpreter ends within C++ may take the process with it."""
    deadline = time.monotonic() + _LAST_WAIT_S
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))
