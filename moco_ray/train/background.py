"""Run one piece of work at a time beside the training loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


class BackgroundWriter:
    """A thread that writes, and tries again for as long as writing fails.

    Training never waits for it: while it is busy the caller postpones what it has to write.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._thread: threading.Thread | None = None
        self._give_up_at = float("inf")
        self._error: Exception | None = None

    @property
    def is_busy(self) -> bool:
        """Whether something is being written."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, what: str, write: Callable[[], None]) -> None:
        """Write in the background; the writer must not be busy.

        Raises:
            Exception: What an earlier write failed with for good.
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
            Exception: What the write failed with for good.
        """
        self._give_up_at = time.monotonic() + patience_s
        if self._thread is not None:
            self._thread.join()
        self._give_up_at = float("inf")
        self._raise_error()

    def _run(self, what: str, write: Callable[[], None]) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return write()
            except ValueError as error:  # the user's to mend: trying again would not help
                self._error = error
                return None
            except Exception as error:
                if time.monotonic() > self._give_up_at:
                    self._error = error
                    return None
                self._warn(f"{what} could not be written ({type(error).__name__}: {error}); again in {pause:.0f} s")
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
