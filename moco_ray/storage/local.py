"""Files on a local disk: folders listed through links, files replaced as a whole."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_BROKEN = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)  # not the disk's fault
FileInfo = tuple[int, float]
"""Bytes of a file, and when it was last changed: seconds since 1970, 0 if unknown."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def list_folder(path: str) -> list[tuple[str, int, bool]]:
    """(name, bytes, is a folder) of what is in a folder; empty if there is none. -1 bytes: it does not tell.

    Links count as what they lead to, but for links to a folder that they are in: those have no end.
    """
    try:
        with os.scandir(path) as entries:
            return [
                (entry.name, _size(entry), _is_folder(entry))
                for entry in entries
                if not (entry.is_symlink() and _is_folder(entry) and _leads_upwards(entry.path))
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []


def all_files(path: str) -> dict[str, FileInfo]:
    """All files in a folder and in those below that no link leads to, by their paths in it."""
    found = {}
    for folder, _, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            with suppress(FileNotFoundError):  # gone since
                info = os.lstat(file)
                found[os.path.relpath(file, path)] = (info.st_size, info.st_mtime)
    return found


def exists(path: str) -> bool:
    """Whether there is something; a disk that does not answer is an OSError, not a no."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def open_file(path: str) -> BinaryIO:
    """Open a file for reading.

    Raises:
        ValueError: It is something else, such as a pipe, which might never end, or a link to nothing.
        OSError: It cannot be opened.
    """
    _stat_file(path)
    return open(path, "rb")


def read_file(path: str) -> bytes:
    """Read a whole file; raises as `open_file` does."""
    with open_file(path) as file:
        return file.read()


def why_unreadable(path: str) -> str | None:
    """Why a file holds nothing that could be read, in a few words; None if it does. It is not opened."""
    try:
        found = _stat_file(path)
    except FileNotFoundError:
        return "there is no such file or folder"
    except ValueError as error:
        return str(error)
    except OSError as error:
        if error.errno not in _BROKEN:
            raise
        return str(error.strerror)
    if found.st_size == 0:
        return "empty file"
    return None if os.access(path, os.R_OK) else "access is refused (Permission denied)"


def _stat_file(path: str) -> os.stat_result:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise ValueError(f"a link to {os.readlink(path)}, which is not there") from None
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("a link that leads back to itself") from error
        raise
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{_KINDS.get(stat.S_IFMT(found.st_mode), 'something else')}, no file")
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno not in _BROKEN:
            raise
        return False


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError as error:  # a link to nowhere, for example: whoever reads it is told
        if error.errno not in _BROKEN:
            raise
        return -1


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
