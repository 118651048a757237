"""Operations on storage, again until they work, or until it is clear that they will not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from moco_ray.storage.errors import (
    EXPIRED,
    STALE,
    Missing,
    NoSpaceError,
    ReadError,
    Refused,
    error_code,
    final_error,
    text_of,
)
from moco_ray.storage.keys import KeyRing, Keys
from moco_ray.storage.uris import shown

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0

T = TypeVar("T")


def repeat(
    work: Callable[[], T],
    uri: str,
    *,
    ring: KeyRing | None,
    explain: Callable[[Exception], Exception],
    patience_s: float,
    is_first: bool,
) -> T:
    """Do something, again where that may help.

    Args:
        work: What to do.
        uri: What it is done to, for messages.
        ring: The keys that it is done with, if there may be other ones.
        explain: Finds out more of an error.
        patience_s: How long to go on.
        is_first: Whether nothing has worked yet.

    Raises:
        ValueError: Trying again would not mend it.
        NoSpaceError: The disk is full.
        ReadError: It failed until the patience ended.
    """
    start, pause, tries = time.monotonic(), _FIRST_PAUSE_S, 0
    while True:
        used = _newest(ring)
        try:
            result = work()
            if ring is not None:
                ring.has_worked = True
            return result
        except (ReadError, Missing, Refused, NoSpaceError):
            raise  # of the file system below, which has tried
        except Exception as error:
            reason, tries, elapsed = explain(error), tries + 1, time.monotonic() - start
            code, is_over = error_code(reason), elapsed + pause > patience_s
            if ring is not None and used is not None and code in STALE and elapsed < patience_s and ring.replace(used):
                continue
            if not (_may_log_in(ring, code, is_first) and not is_over):
                if (final := final_error(reason, uri, is_first=is_first)) is not None:
                    trouble = (
                        f"; the provider of keys says: {ring.trouble}" if ring is not None and ring.trouble else ""
                    )
                    raise type(final)(f"{final}{trouble}") from error
                if is_over:
                    raise _given_up(error, uri, tries, elapsed, is_first) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def _newest(ring: KeyRing | None) -> Keys | None:
    """The keys that a request will be signed with."""
    if ring is None:
        return None
    ring.renew_if_due()
    return ring.current


def _may_log_in(ring: KeyRing | None, code: str, is_first: bool) -> bool:
    """Whether to wait for other keys: those of a run have expired, and somebody or the driver may renew them."""
    return ring is not None and code in EXPIRED and (ring.waits or (ring.has_worked and not is_first))


def _given_up(error: Exception, uri: str, tries: int, elapsed_s: float, is_first: bool) -> ReadError:
    why = text_of(error) if text_of(error) == type(error).__name__ else f"{type(error).__name__}: {text_of(error)}"
    advice = "; check the address or the endpoint, and the network" if is_first else ""
    return ReadError(f"{shown(uri)}: {why} (tried {tries} times in {elapsed_s:.0f} s){advice}")
