"""The key-value store of the cluster, which every process of a run reaches and which outlives all of them but the head."""

from __future__ import annotations

import sys


class ClusterStore:
    """Bytes by name, in the store of the cluster that this process belongs to. Pickled, it is that of another process's."""

    def get(self, name: str) -> bytes | None:
        """Read a value; None if there is none, or outside a cluster."""
        if not is_connected():
            return None
        from ray.experimental.internal_kv import _internal_kv_get

        value: bytes | None = _internal_kv_get(_key(name))
        return value

    def put(self, name: str, value: bytes) -> None:
        """Replace a value; nothing happens outside a cluster."""
        if is_connected():
            from ray.experimental.internal_kv import _internal_kv_put

            _internal_kv_put(_key(name), value, overwrite=True)

    def delete(self, name: str) -> None:
        """Delete a value, if there is one."""
        if is_connected():
            from ray.experimental.internal_kv import _internal_kv_del

            _internal_kv_del(_key(name))


def is_connected() -> bool:
    """Whether this process is connected to a cluster. Does not import Ray: `connect` sets what Ray reads then."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _key(name: str) -> str:
    return f"moco_ray/{name}"
