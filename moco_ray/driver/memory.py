"""How much memory there is to train in."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_CONTROLLERS = (  # of version 2, and of version 1
    (_CGROUP, "memory.max", "memory.current", "inactive_file"),
    (_CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process that starts now can take on a device; None where that cannot be known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [memory for memory in (_available(), _left_of_limit()) if memory is not None]
    return min(found) if found else None


def _available() -> int | None:
    """What the system can give, or, where it does not say, what it has."""
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None


def _left_of_limit() -> int | None:
    """What is left of a container's limit."""
    for folder, name_of_limit, name_of_usage, name_of_cache in _CONTROLLERS:
        try:
            limit = (folder / name_of_limit).read_text().strip()
            used = int((folder / name_of_usage).read_text())
            return None if limit == "max" else max(0, int(limit) - used + _cache(folder, name_of_cache))
        except (OSError, ValueError):
            continue
    return None


def _cache(folder: Path, name: str) -> int:
    """Files in memory, which count as used and make room where it is needed."""
    for line in (folder / "memory.stat").read_text().splitlines():
        if line.startswith(f"{name} "):
            return int(line.split()[1])
    return 0
