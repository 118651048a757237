"""The states that a run saves while it goes on, found from its folder, from a checkpoint's, or by their file."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import torch

from moco_ray.run_folder.checkpoint_files import (
    MARKER,
    STATE,
    DamagedError,
    NotCommittedError,
    checkpoint_name,
    checkpoint_steps,
    read_folder,
    read_verified,
)
from moco_ray.storage.storage import Storage


def is_checkpoint(storage: Storage) -> bool:
    """Whether a folder is a checkpoint, whatever its name."""
    return any(storage.is_file(storage.join(name)) for name in (STATE, MARKER))  # pages of a server are none of them


def checkpoint_state(storage: Storage) -> bytes:
    """The state of a checkpoint's folder, as torch.save wrote it.

    Raises:
        ValueError: It is not whole.
    """
    return _verified(storage, storage.root)


def file_content(storage: Storage) -> bytes:
    """The content of a file; of the state in a checkpoint's folder, verified.

    Raises:
        ValueError: There is none, or the checkpoint is not whole.
    """
    folder, _, name = storage.root.rpartition("/")
    checkpoint = replace(storage, root=folder)
    if name == STATE and (storage.exists(checkpoint.join(MARKER)) or _is_named(folder)):
        return _verified(checkpoint, storage.root)
    return storage.read_bytes(storage.root)


def newest_state(storage: Storage, *, after: int = -1) -> tuple[bytes | None, list[str]]:
    """The newest state in a run's folder that is whole.

    Args:
        storage: The folder.
        after: Only of more steps than this.

    Returns:
        The state, None where there is none, of a run that has not saved yet for example; and why others were not taken.
    """
    reasons: list[str] = []
    for _ in range(2):  # a run that goes on may delete the newest while it is read
        reasons = []
        for step in reversed([step for step in checkpoint_steps(storage) if step > after]):
            try:
                return read_verified(storage, step), reasons
            except NotCommittedError:
                reasons.append(f"{checkpoint_name(step)} was never finished")
            except DamagedError as damage:
                reasons.append(f"{checkpoint_name(step)} is damaged ({damage})")
            except ValueError:
                if storage.exists(storage.join(checkpoint_name(step), STATE)):
                    raise
    return None, reasons


def _verified(checkpoint: Storage, named: str) -> bytes:
    try:
        return read_folder(checkpoint)
    except NotCommittedError:
        raise ValueError(
            f"{checkpoint.uri(named)} was never finished (there is no {MARKER} beside it): use another checkpoint, or the "
            "run's folder"
        ) from None
    except DamagedError as damage:
        raise ValueError(f"{checkpoint.uri(named)} is damaged ({damage}); use another checkpoint") from damage


def _is_named(folder: str) -> bool:
    """Whether a folder has the name that a run gives to those of its checkpoints."""
    last = folder.rsplit("/", 1)[-1].removeprefix("checkpoint_")
    return last.isdecimal() and folder.endswith(f"/{checkpoint_name(int(last))}")


def read_state(content: bytes, path: str) -> dict[str, Any]:
    """Parse a state.

    Raises:
        ValueError: It is none of moco_ray's.
    """
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler fails in as many ways as there are files
        if "PytorchStreamReader" in str(error) or "central directory" in str(error):
            raise ValueError(f"{path} is cut or damaged: copy it anew, or use another checkpoint") from error
        state = None
    if not isinstance(state, dict) or not {"method", "config", "step"} <= state.keys():
        raise ValueError(f"{path} is no checkpoint of moco_ray; load it with torch, or train from it with model.init")
    return state
