"""Run one piece of work at a time beside the training loop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


class WriteError(OSError):
    """Something could not be written, however often it was tried."""


class BackgroundWriter:
    """A thread that writes, and tries again for as long as writing fails.

    Training never waits for it: while it is busy the caller postpones what it has to write.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._give_up_at = float("inf")
        self._error: ValueError | WriteError | None = None

    @property
    def is_busy(self) -> bool:
        """Whether something is being written."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, what: str, write: Callable[[], None]) -> None:
        """Write in the background; the writer must not be busy.

        Raises:
            ValueError: What kept an earlier one from being written, for the user to mend.
        """
        assert not self.is_busy
        self._raise_error()
        self._thread = threading.Thread(target=self._run, args=(what, write), name="writer", daemon=True)
        self._thread.start()

    def finish(self, patience_s: float) -> None:
        """Wait until what is being written is written.

        Args:
            patience_s: Failing writes are not repeated after so many seconds.

        Raises:
            WriteError: It was not written in that time.
            ValueError: What the user must mend for it to be written.
        """
        self._give_up_at = time.monotonic() + patience_s
        if self._thread is not None:
            self._thread.join()
        self._give_up_at = float("inf")
        self._raise_error()

    def _run(self, what: str, write: Callable[[], None]) -> None:
        start, pause = time.monotonic(), _FIRST_PAUSE_S
        while True:
            try:
                return write()
            except ValueError as error:  # the user's to mend: trying again would not help
                self._error = error
                return None
            except Exception as error:
                why = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
                now = time.monotonic()
                if now > self._give_up_at:
                    self._error = WriteError(
                        f"{what} could not be written for {now - start:.0f} s ({why}); earlier checkpoints stay, and the "
                        "same command resumes the run once this is mended"
                    )
                    self._error.__cause__ = error
                    return None
                ends = self._give_up_at < float("inf")
                until = f"for {self._give_up_at - now:.0f} s more" if ends else "while training goes on"
                log.info(f"{what} could not be written ({why}); it is tried again in {pause:.0f} s, {until}")
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
