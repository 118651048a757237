"""Who holds a run: one driver at a time, on this cluster or any other that shares the storage."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco_ray.data.storage import Storage

RENEW_EVERY_S = 10.0
_WATCH_S = 2.5 * RENEW_EVERY_S
_STALE_S = 6 * RENEW_EVERY_S
_FILE = "lease.json"

Say = Callable[[str], None]
# A step that is done, and when (seconds since 1970).
StepDone = tuple[int, float]


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A run that is held."""

    owner: str
    """Unique name of the holder."""
    before: StepDone | None
    """The newest step that the holder before is known to have done, if that one did not end in good order."""


class LeaseLost(ValueError):
    """Another driver has taken the run over."""


@contextmanager
def hold_run(run: Storage, say: Say, last_step: Callable[[], StepDone | None]) -> Iterator[Lease]:
    """Hold the run's lease, renewed from a thread, and give it back at the end.

    Args:
        run: The run's folder.
        say: Prints a line for the user.
        last_step: The newest step known to be done, for whoever resumes after this process is killed.

    Raises:
        ValueError: Another process holds the run and lives.
    """
    _wait_until_free(run, say)
    step = _read(run).get("last_step")
    lease = Lease(owner=uuid.uuid4().hex, before=(int(step[0]), float(step[1])) if step else None)
    _write(run, lease, last_step())
    if (now := _read(run)).get("owner") != lease.owner:
        raise ValueError(_in_use(run, now))
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(run, lease, last_step, ended), name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join()
        with suppress(OSError, ValueError):  # a lease that stays behind is seen to be dead
            if _read(run).get("owner") == lease.owner:
                run.delete(run.join(_FILE))


def check_lease(run: Storage, owner: str) -> None:
    """Make sure that the run is still its owner's, before something is committed to it.

    Raises:
        LeaseLost: It is not.
    """
    lease = _read(run)
    if lease.get("owner") not in (owner, None):
        raise LeaseLost(
            f"the run was taken over by {_holder(lease)} while this process did not answer; it goes on there"
        )


def _wait_until_free(run: Storage, say: Say) -> None:
    """Return when nobody holds the run, as far as its lease or the lack of its renewals tell.

    Clocks of two machines may differ, so a lease that looks alive is watched for as long as renewals take.
    """
    lease = _read(run)
    if not lease or _is_dead(lease) or time.time() - float(lease["renewed_at"]) > _STALE_S:
        return
    say(f"{run.uri(run.root)} is held by {_holder(lease)}: watching for {_WATCH_S:.0f} s whether that is alive")
    deadline = time.monotonic() + _WATCH_S
    while time.monotonic() < deadline:
        time.sleep(1.0)
        now = _read(run)
        if not now:
            return
        if now != lease:
            raise ValueError(_in_use(run, now))
    say("it is not: taking the run over")


def _renew(run: Storage, lease: Lease, last_step: Callable[[], StepDone | None], ended: threading.Event) -> None:
    while not ended.wait(RENEW_EVERY_S):
        with suppress(OSError, ValueError):  # the next renewal may succeed; rank 0 checks before it commits
            if _read(run).get("owner") not in (lease.owner, None):
                return
            _write(run, lease, last_step())


def _write(run: Storage, lease: Lease, last_step: StepDone | None) -> None:
    content = {
        "owner": lease.owner,
        "renewed_at": time.time(),
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "pid_started": _started(os.getpid()),
        "last_step": last_step or lease.before,
    }
    run.write_bytes(run.join(_FILE), json.dumps(content).encode())


def _read(run: Storage) -> dict[str, Any]:
    path = run.join(_FILE)
    try:
        lease = json.loads(run.read_bytes(path)) if run.exists(path) else {}
    except ValueError:  # gone since, or cut off: whoever wrote it will write it again
        return {}
    return lease if isinstance(lease, dict) else {}


def _is_dead(lease: dict[str, Any]) -> bool:
    """Whether its process is known to be gone, which only the same machine can tell."""
    if lease.get("host") != socket.gethostname() or lease.get("boot") != _boot() or not _boot():
        return False
    return _started(int(lease["pid"])) != lease.get("pid_started")


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _started(pid: int) -> str:
    """When a process of this machine started, in clock ticks since boot; empty if there is none."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return fields[19] if fields[0] != "Z" else ""
    return ""


def _holder(lease: dict[str, Any]) -> str:
    return f"process {lease.get('pid')} on {lease.get('host')}"


def _in_use(run: Storage, lease: dict[str, Any]) -> str:
    return (
        f"the run in {run.uri(run.root)} is in use by {_holder(lease)}, which lives; stop it first, or use another "
        "run.name"
    )
