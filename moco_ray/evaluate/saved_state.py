"""The states that a run saves while it goes on, found from its folder, from a checkpoint's, or by their file."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import torch

from moco_ray.data.checkpoint_files import (
    STATE,
    DamagedError,
    NotCommittedError,
    checkpoint_name,
    checkpoint_steps,
    read_verified,
)
from moco_ray.data.storage import Storage

_FOLDER = re.compile(r"(.*)/checkpoint_(\d+)")


def is_checkpoint(storage: Storage) -> bool:
    """Whether a path names one checkpoint, or a file."""
    root = storage.root.rstrip("/")
    return _FOLDER.fullmatch(root) is not None or root.endswith((".pt", ".pth"))


def state_at(storage: Storage, *, after: int = -1) -> bytes | None:
    """The state that a path names, as torch.save wrote it: a run's newest that is whole, a checkpoint's, or a file of one.

    Args:
        storage: The path.
        after: In a run, only of more steps than this.

    Returns:
        None where there is none, of a run that has not saved yet for example.

    Raises:
        ValueError: The named checkpoint is not whole.
    """
    root = storage.root.rstrip("/")
    folder = _FOLDER.fullmatch(root.removesuffix(f"/{STATE}"))
    if folder is not None:
        step = int(folder[2])
        try:
            return read_verified(replace(storage, root=folder[1]), step)
        except NotCommittedError:
            raise ValueError(
                f"{storage.uri(root)} was never finished: use another checkpoint, or the run's folder"
            ) from None
        except DamagedError as damage:
            raise ValueError(f"{storage.uri(root)} is damaged ({damage}); use another checkpoint") from damage
    if root.endswith((".pt", ".pth")):
        return storage.read_bytes(root)
    for _ in range(2):  # a run that goes on may delete the newest while it is read
        for step in reversed([step for step in checkpoint_steps(storage) if step > after]):
            try:
                return read_verified(storage, step)
            except (NotCommittedError, DamagedError):
                continue
            except ValueError:
                if storage.exists(storage.join(checkpoint_name(step), STATE)):
                    raise
    return None


def read_state(content: bytes, path: str) -> dict[str, Any]:
    """Parse a state.

    Raises:
        ValueError: It is none of moco_ray's.
    """
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # an unpickler fails in as many ways as there are files
        state = None
    if not isinstance(state, dict) or not {"method", "config", "step"} <= state.keys():
        raise ValueError(f"{path} is no checkpoint of moco_ray; load it with torch, or train from it with model.init")
    return state
