"""Files on a local disk or behind an fsspec URL: credentials, retries, and errors that say what to do."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, TypeVar, cast

from moco_ray.config.paths import local_path, local_uri
from moco_ray.storage import file_systems
from moco_ray.storage import local as local_files
from moco_ray.storage import s3 as s3_files
from moco_ray.storage.errors import KeysRefused, Missing, NoSpaceError, ReadError, Refused
from moco_ray.storage.keys import KeyRing
from moco_ray.storage.local import FileInfo
from moco_ray.storage.options import StorageOptions, resolve_storage_options
from moco_ray.storage.ranges import RangeReader, whole
from moco_ray.storage.repetition import repeat
from moco_ray.storage.uris import ARCHIVES, CACHES, HTTP, S3, check_place, protocol_of, shown, split_uri

__all__ = [
    "KeysRefused",
    "Missing",
    "NoSpaceError",
    "ReadError",
    "Refused",
    "Storage",
    "StorageOptions",
    "resolve_storage_options",
]

_PATIENCE_S = 120.0  # a training that runs outlives a storage that is away for this long
_FIRST_PATIENCE_S = 10.0  # for what a run asks first: a mistyped endpoint should not take minutes to be noticed

_READ_ONLY = (*HTTP, *ARCHIVES)

T = TypeVar("T")


@dataclass(frozen=True)
class Storage:
    """A folder (or file) on a file system."""

    fs: Any
    """The fsspec file system."""
    protocol: str
    """Of the URIs, "file" for local paths."""
    root: str
    """Path of the folder, as the file system writes it."""
    options: StorageOptions = field(default_factory=lambda: StorageOptions({}))
    """Access to it."""
    prefix: str = ""
    """What stands before a path in its URI."""
    inner: Storage | None = None
    """The archive's file, or what a cache keeps copies of."""
    is_quick: bool = False
    """Whether it gives up early."""
    _ring: KeyRing | None = field(default=None, repr=False)

    @staticmethod
    def open(uri: str, options: StorageOptions, *, is_quick: bool = False) -> Storage:
        """Open a URI, without yet touching what is there; of an archive, its list of files is read.

        Args:
            uri: A local path or an fsspec URL, also one of a file in an archive (zip://name::s3://bucket/images.zip).
            options: Access to it.
            is_quick: Whether to give up early.

        Raises:
            ValueError: No such protocol, or no such archive, or no bucket or host is named.
            ReadError: The archive cannot be read.
        """
        parts = split_uri(uri)
        protocol, values = parts.protocol, options.values
        if parts.inner is not None:
            inner = Storage.open(parts.inner, options, is_quick=is_quick)

            def make() -> Any:
                if protocol in CACHES:
                    return file_systems.open_cache(protocol, inner.fs, values)
                return file_systems.open_archive(protocol, parts.inner or "", inner.open_file(inner.root), values)

            what = parts.inner if protocol in ARCHIVES else protocol_of(parts.inner)
            fs = file_systems.held(protocol, what, values, make)
            return Storage(fs, protocol, parts.path, options, f"{protocol}::", inner, is_quick, inner._ring)
        check_place(uri)
        ring = options.key_ring() if protocol in S3 else None
        fs = file_systems.open_file_system(protocol, uri, values, ring, is_quick)
        prefix = {"file": "", **dict.fromkeys(HTTP, "")}.get(protocol, f"{protocol}://")
        path = parts.path
        if protocol not in ("file", *HTTP, *S3):
            path = str(fs._strip_protocol(uri))
            prefix = file_systems.prefix_of(uri, path)
        root = path if protocol in HTTP else path.rstrip("/") or "/"
        return Storage(fs, protocol, root, options, prefix, None, is_quick, ring)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens it anew: connections and keys are each process's own."""
        return Storage.open, (self.uri(self.root), self.options)

    @property
    def is_web(self) -> bool:
        """Whether paths are URLs of http, of a cache too."""
        return self.protocol in HTTP or (self.protocol in CACHES and self.inner is not None and self.inner.is_web)

    def join(self, *parts: str) -> str:
        """Path of something in the folder."""
        return "/".join([self.root.rstrip("/"), *parts]) if parts else self.root

    def child(self, name: str) -> Storage:
        """A folder in the folder."""
        return Storage.open(self.uri(self.join(name)), self.options)

    def uri(self, path: str) -> str:
        """URI of a path of this file system; a local path is its own, but for one whose name is not UTF-8."""
        if self.protocol == "file":
            return local_uri(path)
        if self.inner is None:
            return f"{self.prefix}{path}"
        if self.protocol in CACHES:
            return f"{self.prefix}{self.inner.uri(path)}"
        return f"{self.protocol}:/{path}::{self.inner.uri(self.inner.root)}"

    def path_of(self, uri: str) -> str:
        """Path of a URI of this file system: what `uri` gave it for."""
        if self.protocol == "file":
            return uri if uri.startswith("/") else local_path(uri)
        if self.inner is not None:
            return split_uri(uri).path
        return uri.removeprefix(self.prefix) if uri.startswith(self.prefix) else split_uri(uri).path

    def read_bytes(self, path: str, *, is_first: bool = False) -> bytes:
        """Read a whole file, again if the connection fails.

        Args:
            path: The file.
            is_first: Give up after seconds instead of minutes.

        Raises:
            Missing: It does not exist.
            Refused: It may not be read.
            ValueError: It cannot be read for another reason that trying again would not mend.
            ReadError: Reading failed for other reasons, several times.
        """
        read = local_files.read_file if self.protocol == "file" else self.fs.cat_file
        return self.retry(path, lambda: bytes(read(path)), is_first=is_first)

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a whole file: it appears whole or not at all.

        Raises:
            ValueError: It may not be written.
            ReadError: Writing failed for other reasons, several times.
        """
        if self.protocol == "file":
            self.retry(path, lambda: local_files.write_file(path, data))
        elif self.protocol in S3:
            limit_s = s3_files.upload_limit_s(self.fs, len(data))
            self.retry(path, lambda: self.fs.pipe_file(path, data, timeout=limit_s))
        elif self.protocol in _READ_ONLY:
            raise ValueError(f"{shown(self.uri(path))}: {self.protocol}:// can only be read; use a folder to write to")
        else:
            self.retry(path, lambda: _write(self.fs, path, data))

    def open_file(self, path: str) -> BinaryIO:
        """Open a file for reading at random; each read asks for its own bytes and no more, again if it fails.

        Raises:
            ValueError: It does not exist or may not be read.
            ReadError: Asking for its size failed for other reasons, several times.
        """
        if self.protocol == "file":
            return self.retry(path, lambda: local_files.open_file(path))
        info = self.retry(path, lambda: self.fs.info(path))
        if self.is_web and not (info.get("partial") and info.get("size")):
            return io.BytesIO(self.read_bytes(path))  # the server does not know parts of files
        num_bytes = int(info["size"])

        def read(first: int, last: int) -> bytes:
            return self.retry(path, lambda: whole(self.fs.cat_file(path, start=first, end=last), last - first))

        return cast(BinaryIO, RangeReader(num_bytes, read))

    def num_bytes(self, path: str) -> int:
        """Bytes of a file, asked for now; -1 if the server does not say. Raises as `read_bytes` does."""
        if self.protocol == "file":
            return self.retry(path, lambda: os.stat(path).st_size)
        size = self.retry(path, lambda: self.fs.info(path))["size"]
        return -1 if size is None else int(size)

    def exists(self, path: str) -> bool:
        """Whether a file or folder is there."""
        if self.protocol == "file":
            return self.retry(path, lambda: local_files.exists(path))
        if self.protocol in S3:
            return bool(self.retry(path, lambda: self.fs.exists(path)))
        try:  # exists() of fsspec takes every failure for a no
            return self.retry(path, lambda: self.fs.info(path)) is not None
        except Missing:
            return False

    def is_file(self, path: str) -> bool:
        """Whether a file is there, and no folder; on http a page of links is a folder."""
        if self.protocol == "file":
            return self.retry(path, lambda: os.path.isfile(path), is_first=True)
        fs = self.at_first().fs
        try:
            info = self.retry(path, lambda: fs.info(path), is_first=True)
        except Missing:
            return False
        is_page = self.is_web and (path.endswith("/") or info.get("mimetype") == "text/html")
        return bool(info["type"] == "file") and not is_page

    def list(self, path: str) -> list[tuple[str, int, bool]]:
        """(name, bytes or -1, is a folder) of what is directly in a folder; empty if there is none."""
        if self.protocol == "file":
            return self.retry(path, lambda: local_files.list_folder(path))
        try:
            entries = self.retry(path, lambda: self.fs.ls(path, detail=True))
        except Missing:
            return []
        found = []
        for entry in entries:
            name = entry["name"].rstrip("/").rsplit("/", 1)[-1]
            if self.is_web and any(sign in name for sign in "?#"):
                continue  # of a page: another order of the same links
            if entry["name"].rstrip("/") != path.rstrip("/") and name:
                size = entry.get("size")
                found.append((name, -1 if size is None else int(size), entry["type"] == "directory"))
        return found

    def files(self, path: str) -> dict[str, FileInfo]:
        """All files in a folder and in those below, by their paths in it; none if there is no such folder."""
        if self.protocol == "file":
            return self.retry(path, lambda: local_files.all_files(path))
        try:
            found = self.retry(path, lambda: self.fs.find(path, detail=True))
        except Missing:
            return {}
        start = len(path.rstrip("/")) + 1
        return {name[start:]: file_systems.info_of(entry) for name, entry in found.items() if name[start:]}

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with all that is in it; nothing if it is not there."""
        if self.protocol == "file":
            self.retry(path, lambda: local_files.delete(path))
            return
        # Name by name: fsspec's recursive delete reads *, ? and [ as a pattern, and deletes what matches.
        for name, _, _ in self.list(path):
            self.delete(f"{path.rstrip('/')}/{name}")
        with contextlib.suppress(Missing):
            if self.protocol not in S3 and self.retry(path, lambda: self.fs.info(path)["type"]) == "directory":
                self.retry(path, lambda: self.fs.rmdir(path))
            else:
                self.retry(path, lambda: self.fs.rm_file(path))

    def at_first(self) -> Storage:
        """The same, with less patience: what a run asks first fails most often for a mistake."""
        if self.is_quick or self.protocol not in (*S3, *HTTP):
            return self
        return Storage.open(self.uri(self.root), self.options, is_quick=True)

    def retry(self, path: str, work: Callable[[], T], *, is_first: bool = False) -> T:
        """Do something with a file, as `repetition.repeat` does, with this storage's keys and patience."""
        is_first |= self.is_quick
        return repeat(
            work,
            self.uri(path),
            ring=self._ring,
            explain=partial(s3_files.with_reason, self.fs, path) if self.protocol in S3 else _itself,
            patience_s=_FIRST_PATIENCE_S if is_first else _PATIENCE_S,
            is_first=is_first,
        )


def _itself(error: Exception) -> Exception:
    return error


def _write(fs: Any, path: str, data: bytes) -> None:
    """Write a file where folders must be there before."""
    fs.makedirs(path.rsplit("/", 1)[0] or "/", exist_ok=True)
    fs.pipe_file(path, data)
