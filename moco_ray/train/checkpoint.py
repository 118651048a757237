"""Checkpoints in the run's folder: written whole or not at all, verified before they are resumed from."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from moco_ray.data.storage import Storage

FORMAT_VERSION = 1
_STATE = "state.pt"
_MARKER = "COMMITTED"
_NAME = re.compile(r"checkpoint_(\d+)")

State = dict[str, Any]


def checkpoint_name(step: int) -> str:
    """Folder of the checkpoint taken after `step` steps."""
    return f"checkpoint_{step:09d}"


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
        self._write(f"{folder}/{_STATE}", content)
        for path, data in files.items():
            self._write(path, data)
        digest = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        marker = {"format_version": FORMAT_VERSION, "step": step, "files": {_STATE: digest}, **info}
        self._write(f"{folder}/{_MARKER}", json.dumps(marker, indent=1).encode())

    def steps(self) -> list[int]:
        """Steps of all checkpoint folders, committed or not, ascending."""
        names = [_NAME.fullmatch(name) for name, _, is_dir in self.storage.list(self.storage.join()) if is_dir]
        return sorted(int(name[1]) for name in names if name)

    def newest(self, warn: Callable[[str], None]) -> int | None:
        """Steps of the newest checkpoint that verifies; passing over one is said to `warn`."""
        steps, finished = self.steps(), 0
        for step in reversed(steps):
            try:
                self._verified(step)
            except _NotCommitted:
                warn(f"{checkpoint_name(step)} was never finished: passed over")
            except _Damaged as damage:
                finished += 1
                warn(f"{checkpoint_name(step)} is damaged ({damage}): passed over, going back to the one before")
            else:
                return step
        if finished:
            raise ValueError(
                f"none of the {finished} checkpoints in {self.storage.uri(self.storage.root)} verifies, and training would "
                "start from nothing; restore them, or delete them to do so"
            )
        return None

    def read(self, step: int) -> State:
        """Read a checkpoint that verifies.

        Raises:
            ValueError: It was written by a newer version of moco_ray.
        """
        content = self._verified(step)
        state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return state

    def marker(self, step: int) -> dict[str, Any]:
        """What the marker of a checkpoint says."""
        content: dict[str, Any] = json.loads(self.storage.read_bytes(self.storage.join(checkpoint_name(step), _MARKER)))
        return content

    def prune(self, keep: set[int]) -> None:
        """Delete what is neither among the newest, nor of every Nth step, nor in `keep`."""
        steps = self.steps()
        for step in steps[: -self.keep_last]:
            every = self.keep_every_steps
            if step not in keep and not (every and step % every == 0):
                self.delete(step)

    def delete_after(self, step: int) -> None:
        """Delete checkpoints of later steps: unfinished or damaged ones that a resume passed over."""
        for later in self.steps():
            if later > step:
                self.delete(later)

    def delete(self, step: int) -> None:
        """Delete one checkpoint, its marker first, so that a half-deleted one is never taken for whole."""
        folder = self.storage.join(checkpoint_name(step))
        marker = self.storage.join(checkpoint_name(step), _MARKER)
        if self.storage.exists(marker):
            self.storage.delete(marker)
        self.storage.delete(folder)

    def _verified(self, step: int) -> bytes:
        folder = checkpoint_name(step)
        if not self.storage.exists(self.storage.join(folder, _MARKER)):
            raise _NotCommitted
        content = self.storage.read_bytes(self.storage.join(folder, _MARKER))
        try:
            marker = json.loads(content)
            expected = marker["files"][_STATE]
        except (ValueError, KeyError, TypeError) as error:
            raise _Damaged("its marker is incomplete") from error
        if marker["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"{folder} has format version {marker['format_version']}, this moco_ray reads up to {FORMAT_VERSION}; "
                "install a newer moco_ray"
            )
        if not self.storage.exists(self.storage.join(folder, _STATE)):
            raise _Damaged(f"{_STATE} is missing")
        content = self.storage.read_bytes(self.storage.join(folder, _STATE))
        if len(content) != expected["bytes"] or hashlib.sha256(content).hexdigest() != expected["sha256"]:
            raise _Damaged(f"{_STATE} does not match its digest")
        return content

    def _write(self, path: str, data: bytes) -> None:
        self.storage.write_bytes(self.storage.join(*path.split("/")), data)


class _NotCommitted(Exception):
    pass


class _Damaged(Exception):
    pass
