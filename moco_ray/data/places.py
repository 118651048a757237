"""Where an entry of a list lies: the same on a disk and in a bucket."""

from __future__ import annotations

import os
import posixpath
import re
from urllib.parse import quote, unquote_to_bytes, urljoin

from moco_ray.config.paths import check_slashes, local_path, local_uri
from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import HTTP, is_local

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_UNTIDY = re.compile(r"^[\s~./]|\s$|[\\:]|//|/\.|/$")
_ESCAPED = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/-]*(%[0-9A-Fa-f]{2}[A-Za-z0-9._~!$&'()*+,;=:@/-]*)+")  # of a URL
_FILE_URL = re.compile(r"file:(//(localhost)?)?(?=/)", re.IGNORECASE)


def place_of(entry: str, storage: Storage, folder: str) -> str:
    """URI of an image that a list names.

    An entry with a protocol is taken as it is written, but for file://, which is a local path with %20 and the like. A
    relative one begins at the list's folder, and "~/" is the user's home. In all paths without a protocol a backslash
    is a slash, and "./", "../" and "//" are resolved, as text: a bucket has no folders that could be links.

    Args:
        entry: What the list says.
        storage: Where the list is.
        folder: The list's folder, as a path of that storage.

    Raises:
        ValueError: It is an image itself, a path of a Windows drive or a URL that lacks slashes, or leads above what there is.
    """
    if storage.protocol in HTTP and "://" not in entry and is_local(entry):
        return relative_url(storage.root, entry.strip())
    if _UNTIDY.search(entry) is None:  # most are plain, and there may be millions
        return storage.uri(f"{folder}/{entry}")
    entry = entry.strip()
    if entry.startswith("data:"):
        raise ValueError(f"{entry[:30]!r}… holds an image as text; write image files, or Parquet files of image bytes")
    if match := _FILE_URL.match(entry):
        return local_uri(_tidy(os.fsdecode(unquote_to_bytes(entry[match.end() :]))))
    if "://" in entry or not is_local(entry):
        return local_uri(local_path(entry)) if is_local(entry) else entry
    if _DRIVE.match(entry) or entry.startswith("\\\\"):
        raise ValueError(f"{entry!r} is a path of a Windows machine; write paths that begin at the list's own folder")
    check_slashes(entry)
    entry = entry.replace("\\", "/")
    if entry.startswith("~/"):
        entry = os.path.expanduser(entry)
    if entry.startswith("/"):
        return _tidy(entry)
    if storage.protocol == "file":
        if ".." in entry.split("/"):
            folder = os.path.realpath(folder)  # as the system reads it where the folder is a link
        return storage.uri(_tidy(f"{folder}/{entry}"))
    top, _, below = folder.partition("/")
    path = posixpath.normpath(f"{below}/{entry}".lstrip("/"))
    if path.split("/", 1)[0] == "..":
        raise ValueError(f"{entry!r} leads out of {storage.uri(top)}")
    return storage.uri(f"{top}/{path}")


def relative_url(base: str, name: str) -> str:
    """URL of what a list behind http names: a file name, taken literally, or a relative URL if it is escaped already."""
    return urljoin(base, name if _ESCAPED.fullmatch(name) else quote(name))


def _tidy(path: str) -> str:
    return posixpath.normpath(re.sub("//+", "/", path))
