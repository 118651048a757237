"""Short texts that outlive a group of workers: why it failed, how far it came, what it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

LEAVING = "a node of the group is being taken away"
"""A cause."""


@dataclass(frozen=True)
class Notes:
    """Texts by name in the cluster's key-value store.

    For one attempt at a run: user_error (what the user must mend), starts (how often groups have started in a row from one step),
    cause (why the last group ended), step (the newest step done), save (the controller asks for a checkpoint: any
    new text), saved (the request that has been met). For all attempts at a run on this cluster: requester (who holds
    its claim on nodes) and placement_group (of its workers).
    """

    owner: str
    """Unique name of the attempt, or of the run."""

    def write(self, name: str, text: str) -> None:
        """Replace a text."""
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(self._key(name), text.encode(), overwrite=True)

    def read(self, name: str) -> str | None:
        """Read a text; None if there is none."""
        from ray.experimental.internal_kv import _internal_kv_get

        value = _internal_kv_get(self._key(name))
        return value.decode() if value is not None else None

    def delete(self, name: str) -> None:
        """Delete a text, if there is one."""
        from ray.experimental.internal_kv import _internal_kv_del

        _internal_kv_del(self._key(name))

    def _key(self, name: str) -> str:
        return f"moco_ray/{self.owner}/{name}"
