"""Keys that a driver shares with the processes of its run on other nodes, through the store of the cluster."""

from __future__ import annotations

import json
import sys
import uuid
from typing import Any


def new_name() -> str:
    """A name for keys, unique over all processes."""
    return uuid.uuid4().hex


def write(name: str, values: dict[str, Any]) -> None:
    """Publish keys."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(_key(name, "keys"), json.dumps(values).encode(), overwrite=True)


def read(name: str) -> dict[str, Any] | None:
    """The keys that are published; None outside a cluster, or if there are none."""
    if (content := _get(name, "keys")) is None:
        return None
    values: dict[str, Any] = json.loads(content)
    return values


def ask_for_others(name: str, fingerprint: str) -> None:
    """Tell the driver that keys are refused or about to expire."""
    if _is_connected():
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(_key(name, "refused"), fingerprint.encode(), overwrite=True)


def refused(name: str) -> str | None:
    """The fingerprint of keys that another process has asked to replace."""
    content = _get(name, "refused")
    return content.decode() if content is not None else None


def forget(name: str) -> None:
    """Delete what was published."""
    from ray.experimental.internal_kv import _internal_kv_del

    for part in ("keys", "refused"):
        _internal_kv_del(_key(name, part))


def _get(name: str, part: str) -> bytes | None:
    if not _is_connected():
        return None
    from ray.experimental.internal_kv import _internal_kv_get

    content: bytes | None = _internal_kv_get(_key(name, part))
    return content


def _is_connected() -> bool:
    """Whether this process belongs to a cluster; one that has not imported Ray does not."""
    if "ray" not in sys.modules:
        return False
    import ray

    return bool(ray.is_initialized())


def _key(name: str, part: str) -> str:
    return f"moco_ray/keys-{name}/{part}"
