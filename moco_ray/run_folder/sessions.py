"""sessions.jsonl: when a run began and went on, by which command, with what."""

from __future__ import annotations

import json
import logging
import platform
import sys
import time
from collections.abc import Iterable
from importlib import metadata

from moco_ray.run_folder.metrics import Line, stored_lines
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.storage.uris import shown, without_secrets

log = logging.getLogger(__name__)
SESSIONS = "sessions.jsonl"
_MOST = 500
_PACKAGES = ("moco_ray", "torch", "torchvision", "timm", "ray", "numpy", "pillow")


def note_session(
    run: Storage, command: str | None, *, workers: int, uses_gpu: bool, options: Iterable[StorageOptions]
) -> None:
    """Note that a run begins or goes on. A file that cannot be written is warned of.

    Args:
        run: The run's folder.
        command: That continues the run; None: it was called from Python.
        workers: At most so many, 0 for this process.
        uses_gpu: Whether it trains on GPUs.
        options: Access to storage, whose values the file must not show.
    """
    line: Line = {
        "at_s": round(time.time(), 1),
        "command": None if command is None else shown(without_secrets(command, options)),
        "workers": workers,
        "device": "cuda" if uses_gpu else "cpu",
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
    }
    try:
        try:
            before = stored_lines(run, SESSIONS)
        except ValueError:  # it is no reason to stop a run
            before = []
        kept = [*before[:1], *before[1:][-_MOST:], line]
        run.write_bytes(run.join(SESSIONS), "".join(json.dumps(one) + "\n" for one in kept).encode())
    except (OSError, ValueError) as error:
        log.warning(f"{SESSIONS} could not be written ({error})")


def versions() -> dict[str, str]:
    """Versions of Python and of what a run is made of."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
