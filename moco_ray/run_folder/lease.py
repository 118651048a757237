"""Who holds a run: one driver at a time, on this cluster or any other that shares the storage."""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco_ray.config.patience import USUAL_PATIENCE, Patience
from moco_ray.storage.storage import Storage

log = logging.getLogger(__name__)
_STALE_S = 3600.0  # more than clocks differ, and than storage is away while a run waits for it
LEASE = "lease.json"
_CLAIM = "lease-claim-"
# A step that is done, and when (seconds since 1970).
StepDone = tuple[int, float]


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A run that is held."""

    owner: str
    """Unique name of the holder."""
    before: StepDone | None
    """The newest step known to be done before, if the holder before did not end in good order."""


class RunInUse(ValueError):
    """Another driver holds the run and lives."""


class LeaseLost(ValueError):
    """Another driver has taken the run over."""


@contextmanager
def hold_run(
    run: Storage,
    last_step: Callable[[], StepDone | None],
    patience: Patience = USUAL_PATIENCE,
    *,
    trains: bool = True,
) -> Iterator[Lease]:
    """Hold the run's lease, renewed from a thread, and give it back at the end.

    Args:
        run: The run's folder.
        last_step: The newest step known to be done, for whoever resumes after this process is killed.
        patience: With others who hold the run.
        trains: Whether a good end is one of the run; else what is noted of steps that may be lost stays noted.

    Raises:
        RunInUse: Another process holds the run and lives.
    """
    lease = _take(run, last_step, patience)
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(run, lease, last_step, ended, patience), name="lease", daemon=True)
    thread.start()
    is_done = False
    try:
        yield lease
        is_done = True
    finally:
        ended.set()
        thread.join()
        with suppress(OSError, ValueError):  # a lease that stays behind is seen to be dead
            _release(run, lease, None if is_done and trains else last_step() or lease.before)


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


def read_lease(run: Storage) -> dict[str, Any]:
    """The run's lease as it is now; empty if there is none."""
    return _read(run)


def is_held(lease: dict[str, Any], patience: Patience = USUAL_PATIENCE) -> bool | None:
    """Whether a lease is that of a driver that lives; None where only a renewal can tell, since clocks may differ."""
    try:
        if not lease.get("owner"):
            return False
        if _is_here(lease):
            return not _is_dead(lease)
        age_s = time.time() - float(lease["renewed_at"])
    except (KeyError, TypeError, ValueError):  # damaged; whoever lives writes it anew
        return None
    if age_s > _STALE_S:
        return False
    return True if abs(age_s) <= patience.lease_watch else None


def _take(run: Storage, last_step: Callable[[], StepDone | None], patience: Patience) -> Lease:
    """Take a lease that nobody holds; of several who try at once, one gets it.

    Storage that is shared has no locks to rely on. So whoever starts leaves a file that says so, and takes the lease
    only if there is no other such file then: of two, the second to write its own sees that of the first.
    """
    since_s: dict[str, float] = {}
    while True:
        seen = _wait_until_free(run, patience)
        claim = _CLAIM + uuid.uuid4().hex
        run.write_bytes(run.join(claim), b"")
        try:
            if not _has_rivals(run, claim, since_s, patience) and _read(run) == seen:
                step = last_step() or seen.get("last_step")
                lease = Lease(owner=uuid.uuid4().hex, before=(int(step[0]), float(step[1])) if step else None)
                _write(run, lease.owner, lease.before)
                return lease
        finally:
            run.delete(run.join(claim))
        time.sleep(random.uniform(0.1, 1.0) * patience.lease_look)


def _has_rivals(run: Storage, own_claim: str, since_s: dict[str, float], patience: Patience) -> bool:
    """Whether others try to take the lease; a claim that stays is one of a process that died over it."""
    now, rivals = time.monotonic(), 0
    for name, _, _ in run.list(run.join()):
        if not name.startswith(_CLAIM) or name == own_claim:
            continue
        if now - since_s.setdefault(name, now) > patience.lease_watch:
            run.delete(run.join(name))
        else:
            rivals += 1
    return rivals > 0


def _wait_until_free(run: Storage, patience: Patience) -> dict[str, Any]:
    """The lease that is there when nobody holds the run, as far as that or the lack of renewals tells.

    Clocks of two machines may differ, so a lease that looks alive is watched for as long as renewals take.
    """
    lease = _read(run)
    if not lease.get("owner") or _is_dead(lease) or time.time() - float(lease["renewed_at"]) > _STALE_S:
        return lease
    log.info(
        f"{run.uri(run.root)} is held by {_holder(lease)}: watching for {patience.lease_watch:.0f} s whether that is alive"
    )
    deadline = time.monotonic() + patience.lease_watch
    while time.monotonic() < deadline:
        time.sleep(patience.lease_look)
        now = _read(run)
        if not now.get("owner"):
            return now
        if now != lease:
            raise RunInUse(_in_use(run, now))
    log.info("it is not: taking the run over")
    return lease


def _renew(
    run: Storage, lease: Lease, last_step: Callable[[], StepDone | None], ended: threading.Event, patience: Patience
) -> None:
    while not ended.wait(patience.lease_renewal):
        with suppress(OSError, ValueError):  # the next renewal may succeed; rank 0 checks before it commits
            if _read(run).get("owner") not in (lease.owner, None):
                return
            _write(run, lease.owner, last_step() or lease.before)


def _release(run: Storage, lease: Lease, last_step: StepDone | None) -> None:
    """Give the lease back; steps that may be lost stay noted in one without an owner."""
    if _read(run).get("owner") != lease.owner:
        return
    if last_step is None:
        run.delete(run.join(LEASE))
    else:
        _write(run, "", last_step)


def _write(run: Storage, owner: str, last_step: StepDone | None) -> None:
    content = {
        "owner": owner,
        "renewed_at": time.time(),
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "pid_started": _started(os.getpid()),
        "last_step": last_step,
    }
    run.write_bytes(run.join(LEASE), json.dumps(content).encode())


def _read(run: Storage) -> dict[str, Any]:
    path = run.join(LEASE)
    try:
        lease = json.loads(run.read_bytes(path)) if run.exists(path) else {}
    except ValueError:  # gone since, or cut off: whoever wrote it will write it again
        return {}
    return lease if isinstance(lease, dict) else {}


def _is_dead(lease: dict[str, Any]) -> bool:
    """Whether its process is known to be gone, which only the same machine can tell."""
    return _is_here(lease) and _started(int(lease["pid"])) != lease.get("pid_started")


def _is_here(lease: dict[str, Any]) -> bool:
    return lease.get("host") == socket.gethostname() and bool(_boot()) and lease.get("boot") == _boot()


def _boot() -> str:
    """Where and since when process ids count: the kernel's boot and the container's namespace; empty if unknown."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
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
