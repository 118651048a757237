"""A warning when the cluster writes prepared images to disk because its memory for objects is full."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

log = logging.getLogger(__name__)
_LOOK_EVERY_S = 30.0
_MB = 1e6


def watch_spilling() -> None:
    """From now on, say when Ray spills, and again whenever that has doubled. Rank 0 calls, once in its process."""

    def watch() -> None:
        before, said = None, 0
        while True:
            with suppress(Exception):  # no answer is no reason to end a run
                spilled = spilled_bytes()
                before = spilled if before is None else before
                if spilled - before > 2 * said:
                    said = spilled - before
                    log.warning(_warning(said))
            time.sleep(_LOOK_EVERY_S)

    threading.Thread(target=watch, name="spilling", daemon=True).start()


def spilled_bytes() -> int:
    """Bytes that all nodes of the cluster have ever written to disk for lack of memory for objects.

    Semi-public: what `ray memory --stats-only` shows. One node is asked, and it asks the others.
    """
    import ray
    from ray._private.internal_api import get_memory_info_reply

    reply = get_memory_info_reply(ray._private.state.state, timeout_seconds=_LOOK_EVERY_S)  # type: ignore[no-untyped-call]
    return int(reply.store_stats.spilled_bytes_total)


def _warning(spilled: int) -> str:
    return (
        f"Ray has written {spilled / _MB:,.0f} MB of objects to disk since these workers began, because the "
        "memory for objects is full: reading them back is slow, and the disk can fill. Start the nodes with more "
        "--object-store-memory, or end what else uses this cluster"
    )
