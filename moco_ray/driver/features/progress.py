"""How far something is that takes a while."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)

_SAY_EVERY_S = 10.0


class Progress:
    """Says how far something is, now and then, as a line that a terminal shows in place of the last one."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._start_s = self._said_s = time.monotonic()

    def add(self, count: int) -> None:
        """So many images more are done."""
        self._done += count
        now_s = time.monotonic()
        if now_s - self._said_s < _SAY_EVERY_S and self._done < self._total:
            return
        self._said_s = now_s
        rate = self._done / max(now_s - self._start_s, 1e-9)
        left_s = round((self._total - self._done) / rate)
        left = f", {left_s // 60}:{left_s % 60:02} left" if left_s else ""
        log.info(f"measuring {self._what}: {self._done:,} of {self._total:,} images, {rate:,.0f}/s{left}")
