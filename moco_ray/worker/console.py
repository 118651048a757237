"""What the program says to a person: records of the logger "moco_ray", from INFO on, a line each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_LOGGER = logging.getLogger("moco_ray")
_IS_SILENT = ContextVar("is_silent", default=False)


class _Lines(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self.say = say

    def handle(self, record: logging.LogRecord) -> bool:
        """Say it without a lock, as threads do not wait for each other's lines; what `say` raises is the caller's."""
        if not _IS_SILENT.get():
            self.say(f"{'warning: ' if record.levelno >= logging.WARNING else ''}{record.getMessage()}")
        return True


@contextmanager
def said_by(say: Callable[[str], None]) -> Iterator[None]:
    """Inside, what any thread of this process logs is said by `say`, and by no `said_by` around this one."""
    before = _LOGGER.handlers, _LOGGER.propagate, _LOGGER.level
    _set([*(handler for handler in before[0] if not isinstance(handler, _Lines)), _Lines(say)], False, logging.INFO)
    try:
        yield
    finally:
        _set(*before)


def say_for_good(say: Callable[[str], None] | None, files: Sequence[logging.Handler] = ()) -> None:
    """From now on `say`, if any, says what this process of a cluster logs; `files`, of logs, get all of it, steps too."""
    _set([*files, *([] if say is None else [_Lines(say)])], False, logging.DEBUG)


def now_said_by() -> Callable[[str], None]:
    """What says a line now; for those of the cluster that come after the end of `said_by`, too."""
    return next((handler.say for handler in _LOGGER.handlers if isinstance(handler, _Lines)), lambda line: None)


@contextmanager
def silence() -> Iterator[None]:
    """Inside, nothing that this thread logs is said."""
    token = _IS_SILENT.set(True)
    try:
        yield
    finally:
        _IS_SILENT.reset(token)


def _set(handlers: list[logging.Handler], propagates: bool, level: int) -> None:
    _LOGGER.handlers, _LOGGER.propagate = handlers, propagates
    _LOGGER.setLevel(level)
