"""Checkpoints in the run's folder: written whole or not at all, verified before they are resumed from."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any

import torch

from moco_ray.run_folder.checkpoint_files import (
    FORMAT_VERSION,
    MARKER,
    STATE,
    checkpoint_name,
    checkpoint_steps,
    delete_checkpoint,
    newest_checkpoint,
    read_verified,
    superfluous_steps,
)
from moco_ray.storage.storage import Storage

State = dict[str, Any]

__all__ = ["FORMAT_VERSION", "CheckpointStore", "State", "checkpoint_name"]


@dataclass(frozen=True, kw_only=True)
class CheckpointStore:
    """The checkpoints of one run.

    `checkpoint_<steps>/` holds state.pt and, written last, COMMITTED with the size and digest of each file. An
    object store has no rename, so a folder without a COMMITTED that verifies is no checkpoint.
    """

    storage: Storage
    """The run's folder."""
    keep_last: int = 3
    """Newest checkpoints that stay."""
    keep_every_steps: int | None = None
    """Checkpoints of every so many steps stay too."""

    def write(self, step: int, state: State, files: dict[str, bytes], info: dict[str, Any]) -> None:
        """Write a checkpoint and, before its marker, other files of the run that belong to it.

        Args:
            step: Steps done.
            state: Tensors and plain values, readable with torch.load(weights_only=True).
            files: Path in the run's folder -> content, such as the metrics since the last checkpoint.
            info: Plain values for the marker.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        folder = checkpoint_name(step)
        self._write(f"{folder}/{STATE}", content)
        for path, data in files.items():
            self._write(path, data)
        digest = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        marker = {"format_version": FORMAT_VERSION, "step": step, "files": {STATE: digest}, **info}
        self._write(f"{folder}/{MARKER}", json.dumps(marker, indent=1).encode())

    def steps(self) -> list[int]:
        """Steps of all checkpoint folders, committed or not, ascending."""
        return checkpoint_steps(self.storage)

    def newest(self) -> int | None:
        """Steps of the newest checkpoint that verifies; passing over one is said."""
        found = self.newest_content()
        return found[0] if found else None

    def newest_content(self) -> tuple[int, bytes] | None:
        """The same with the bytes of its state, which had to be read for that."""
        return newest_checkpoint(self.storage)

    def read(self, step: int) -> State:
        """Read a checkpoint that verifies.

        Raises:
            ValueError: It was written by a newer version of moco_ray.
        """
        return state_of(read_verified(self.storage, step))

    def marker(self, step: int) -> dict[str, Any]:
        """What the marker of a checkpoint says."""
        content: dict[str, Any] = json.loads(self.storage.read_bytes(self.storage.join(checkpoint_name(step), MARKER)))
        return content

    def prune(self, keep: set[int]) -> None:
        """Delete what is neither among the newest, nor of every Nth step, nor in `keep`."""
        every = (self.keep_every_steps,)
        for step in superfluous_steps(self.steps(), keep_last=self.keep_last, every=every, keep=keep):
            self.delete(step)

    def delete_after(self, step: int) -> None:
        """Delete checkpoints of later steps: unfinished or damaged ones that a resume passed over."""
        for later in self.steps():
            if later > step:
                self.delete(later)

    def delete(self, step: int) -> None:
        """Delete one checkpoint."""
        delete_checkpoint(self.storage, step)

    def _write(self, path: str, data: bytes) -> None:
        self.storage.write_bytes(self.storage.join(*path.split("/")), data)


def state_of(content: bytes) -> State:
    """The state that is in the bytes of a checkpoint, on the CPU."""
    state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state
