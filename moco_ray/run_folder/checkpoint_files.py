"""Checkpoints as they lie in a run's folder: found, and verified before anything is read from them."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Collection, Sequence

from moco_ray.storage.storage import Storage

log = logging.getLogger(__name__)
FORMAT_VERSION = 1
STATE, MARKER = "state.pt", "COMMITTED"
_NAME = re.compile(r"checkpoint_(\d+)")


class NotCommittedError(Exception):
    """A checkpoint was never finished."""


class DamagedError(Exception):
    """A checkpoint is not what its marker says."""


def checkpoint_name(step: int) -> str:
    """Folder of the checkpoint taken after `step` steps."""
    return f"checkpoint_{step:09d}"


def step_of(name: str) -> int | None:
    """Steps of the checkpoint that a folder of this name holds; None for another folder."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def checkpoint_steps(run: Storage) -> list[int]:
    """Steps of all checkpoint folders of a run, committed or not, ascending."""
    steps = [step_of(name) for name, _, is_dir in run.list(run.join()) if is_dir]
    return sorted(step for step in steps if step is not None)


def superfluous_steps(
    steps: Sequence[int], *, keep_last: int, every: Collection[int | None], keep: Collection[int]
) -> list[int]:
    """Which checkpoints may go.

    Args:
        steps: Of all, ascending.
        keep_last: Newest ones that stay.
        every: Those at multiples of these stay.
        keep: Those that stay, too.
    """
    old = steps[: max(0, len(steps) - keep_last)]
    return [step for step in old if step not in keep and not any(n and step % n == 0 for n in every)]


def delete_checkpoint(run: Storage, step: int) -> None:
    """Delete one checkpoint, its marker first, so that a half-deleted one is never taken for whole."""
    marker = run.join(checkpoint_name(step), MARKER)
    if run.exists(marker):
        run.delete(marker)
    run.delete(run.join(checkpoint_name(step)))


def newest_checkpoint(run: Storage) -> tuple[int, bytes] | None:
    """Steps and state of the newest checkpoint that verifies; passing over one is said.

    Raises:
        ValueError: There are finished checkpoints, and none of them verifies.
    """
    finished = 0
    for step in reversed(checkpoint_steps(run)):
        try:
            return step, read_verified(run, step)
        except NotCommittedError:
            log.info(f"{checkpoint_name(step)} was never finished: passed over")
        except DamagedError as damage:
            finished += 1
            log.info(f"{checkpoint_name(step)} is damaged ({damage}): passed over, going back to the one before")
    if finished:
        raise ValueError(
            f"none of the {finished} checkpoints in {run.uri(run.root)} verifies, and training would "
            "start from nothing; restore them, or delete them to do so"
        )
    return None


def read_verified(run: Storage, step: int) -> bytes:
    """The state of a run's checkpoint, as `read_folder` reads it."""
    return read_folder(run, checkpoint_name(step))


def read_folder(run: Storage, folder: str = "") -> bytes:
    """The state of a checkpoint as torch.save wrote it.

    Args:
        run: What its folder is in.
        folder: The name of its folder; empty: `run` is that itself.

    Raises:
        NotCommittedError: It has no marker.
        DamagedError: It is not what its marker says.
        ValueError: It was written by a newer version of moco_ray.
    """
    place = [folder] if folder else []
    if not run.exists(run.join(*place, MARKER)):
        raise NotCommittedError
    content = run.read_bytes(run.join(*place, MARKER))
    try:
        marker = json.loads(content)
        expected = marker["files"][STATE]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError("its marker is incomplete") from error
    if marker["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{folder or run.uri(run.root)} has format version {marker['format_version']}, this moco_ray reads up to "
            f"{FORMAT_VERSION}; install a newer moco_ray"
        )
    if not run.exists(run.join(*place, STATE)):
        raise DamagedError(f"{STATE} is missing")
    content = run.read_bytes(run.join(*place, STATE))
    if len(content) != expected["bytes"] or hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise DamagedError(f"{STATE} does not match its digest")
    return content
