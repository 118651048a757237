"""Files on a local disk: folders listed through links, files replaced as a whole."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path


def list_folder(path: str) -> list[tuple[str, int, bool]]:
    """(name, bytes, is a folder) of what is in a folder; empty if there is none.

    Links count as what they lead to, but for links to a folder that they are in: those have no end.
    """
    try:
        with os.scandir(path) as entries:
            return [
                (entry.name, _size(entry), entry.is_dir())
                for entry in entries
                if not (entry.is_symlink() and entry.is_dir() and _leads_upwards(entry.path))
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_file(path: str) -> bytes:
    """The content of a file."""
    with open(path, "rb") as file:
        return file.read()


def exists(path: str) -> bool:
    """Whether there is something; a disk that does not answer is an OSError, not a no."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0  # a link to nowhere: whoever reads it is told


def _leads_upwards(link: str) -> bool:
    """Whether a link leads to a folder that the way to it, links and all, has come through."""
    target = os.path.realpath(link)
    way = (os.path.realpath(folder) for folder in Path(link).parents)
    return any(os.path.commonpath([target, folder]) == target for folder in way)


def delete(path: str) -> None:
    """Delete a file, a link, or a folder with all that is in it; nothing if it is not there."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


def write_file(path: str, data: bytes) -> None:
    """Write a file and the folders above it; it appears whole, on the disk, or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{uuid.uuid4().hex}")  # no longer than that: the name may be as long as names can be
    try:
        with scratch.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
