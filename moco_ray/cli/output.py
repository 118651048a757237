"""The output of a command, whose reader may go away before the command ends."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

_GONE = (errno.EPIPE, errno.EIO)  # of a pipe, and of a terminal


class OutputClosed(BaseException):
    """Nobody reads standard output any more, and it was all that the command is for."""


class _Output:
    """A stream that can be written to after its reader has gone, to no effect."""

    def __init__(self, stream: TextIO, *, is_all: bool) -> None:
        self._stream = stream
        self.is_all = is_all
        """Whether it is what the command is for."""
        self._has_failed = False

    def write(self, text: str) -> int:
        """Write text, if that is possible."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Hand over what was written, if that is possible."""
        try:
            self._stream.flush()
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Hand over what was written or give it up: else the interpreter would fail over it when it ends."""
        try:
            self._stream.flush()
        except OSError:
            self._lead_nowhere()

    def _lead_nowhere(self) -> None:
        with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _fail(self, error: OSError) -> None:
        is_gone = error.errno in _GONE
        if is_gone:
            self._lead_nowhere()
        if self.is_all:
            if is_gone:
                raise OutputClosed from error
            raise error
        if not self._has_failed and self is cast(Any, sys.stdout):
            self._has_failed = True
            print(
                f"moco_ray: the output cannot be written ({error.strerror}), and what it would say is lost; the command "
                "goes on, and its results are in its folder",
                file=sys.stderr,
            )


@contextmanager
def own_output() -> Iterator[None]:
    """Inside, a reader that goes away is no error of standard error's, and OutputClosed where it read standard output.

    Streams that were closed from the beginning lead nowhere.
    """
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        out, err = (stream or nowhere for stream in before)  # None where it was closed
        outputs = _Output(out, is_all=True), _Output(err, is_all=False)
        sys.stdout, sys.stderr = (cast(TextIO, output) for output in outputs)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
            for output in outputs:
                output.close()


def outlive_output() -> None:
    """From now on go on where nobody reads the output: the command's results are elsewhere."""
    if isinstance(cast(Any, sys.stdout), _Output):
        cast(Any, sys.stdout).is_all = False
