"""Open the fsspec file system of a URI: S3 and http with our own patience, archives by ranges, all others as they are."""

from __future__ import annotations

import contextlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.utils import tokenize

from moco_ray.storage import s3 as s3_files
from moco_ray.storage.errors import ReadError
from moco_ray.storage.keys import KeyRing
from moco_ray.storage.local import FileInfo
from moco_ray.storage.uris import ARCHIVES, CACHES, HTTP, S3, known_protocols, protocol_of, shown

_NO_PLACES = frozenset(
    "async_wrapper asyncwrapper asynclocal cached dask data dir generic jlab jupyter local pyscript reference".split()
)
_HTTP_PATIENCE = {"sock_connect": 10, "sock_read": 60}
_HTTP_QUICK = {"sock_connect": 4, "sock_read": 12}
_READ_AHEAD_BYTES = 1 << 16  # of an archive: the header before a file and a small file come with one request


def open_file_system(protocol: str, uri: str, values: Mapping[str, Any], ring: KeyRing | None, is_quick: bool) -> Any:
    """The file system of a URI that is no chain.

    Args:
        protocol: Its protocol.
        uri: What is to be read; for some file systems it names a host or a repository.
        values: Options.
        ring: Keys of S3 that may change.
        is_quick: Whether requests give up early, where that can be said.

    Raises:
        ValueError: There is no such file system, or not with these options.
    """
    own = {name: value for name, value in values.items() if name not in (*ARCHIVES, *CACHES)}
    with _said_plainly(protocol), _with_address(uri):
        if protocol in S3:
            return s3_files.open_s3(own, ring, is_quick=is_quick)
        if protocol in HTTP:
            return fsspec.filesystem("http", **_http_options(own, is_quick))
        made_for = fsspec.get_filesystem_class(protocol)
        if protocol in _NO_PLACES - {"local"}:
            raise ValueError("it names no place by itself")
        return made_for(**{**made_for._get_kwargs_from_urls(uri), **own})


def _http_options(values: dict[str, Any], is_quick: bool) -> dict[str, Any]:
    from aiohttp import ClientTimeout

    client = dict(values.get("client_kwargs") or {})
    if not isinstance(client.get("timeout"), ClientTimeout):
        total = client.get("timeout")
        client["timeout"] = ClientTimeout(total=total, **(_HTTP_QUICK if is_quick else _HTTP_PATIENCE))
    return {**values, "client_kwargs": client, "use_listings_cache": False}


@contextlib.contextmanager
def _with_address(uri: str) -> Iterator[None]:
    """Name the address where a file system connects when it is made, and cannot."""
    try:
        yield
    except OSError as error:
        raise ReadError(f"{shown(uri)}: {error}; check the address, and the network") from error


@contextlib.contextmanager
def _said_plainly(protocol: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, ImportError, TypeError) as error:
        works = [name for name in known_protocols() if name not in _NO_PLACES]
        raise ValueError(
            f"{protocol}:// cannot be opened: {error}. These work here, and others after the installation of what "
            f"they need: {', '.join(works)}"
        ) from error


class _Held:
    """File systems that cost something to open, once for each process: archives with their index, and caches."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.opened: dict[str, Any] = {}


_HELD = _Held()


def held(protocol: str, inner: str, values: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """The file system over another one: that of before, or a new one.

    Args:
        protocol: Of the upper one.
        inner: URI that it reads: the archive, or the file system behind a cache.
        values: Options.
        make: Opens it.
    """
    name = tokenize(protocol, inner, dict(values))
    with _HELD.lock:
        if name not in _HELD.opened:
            _HELD.opened[name] = make()
        return _HELD.opened[name]


def open_archive(protocol: str, uri: str, file: BinaryIO, values: Mapping[str, Any]) -> Any:
    """The files in an archive, each read by the ranges that it takes.

    Raises:
        ValueError: It is no archive, or one that cannot be read at random.
    """
    buffered = io.BufferedReader(cast(io.RawIOBase, file), _READ_AHEAD_BYTES)
    own = dict(values.get(protocol) or {})
    if protocol == "tar" and (packed := _packed_as(buffered)):
        raise ValueError(
            f"{uri} is packed as a whole ({packed}), so no file in it can be read without all before it; unpack it, or use "
            "a .zip or a plain .tar"
        )
    try:
        fs = fsspec.get_filesystem_class(protocol)(buffered, **own, skip_instance_cache=True)
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise ValueError(f"{uri} is no {protocol} archive, or a damaged one: {error}") from error
    return _OneAtATime(fs)


def _packed_as(file: Any) -> str | None:
    """How a file is compressed, from its first bytes."""
    start = file.read(6)
    file.seek(0)
    magics = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
    return next((name for magic, name in magics.items() if start.startswith(magic)), None)


class _OneAtATime:
    """An archive's file system: its one file has one position, so threads take turns."""

    def __init__(self, fs: Any) -> None:
        self._fs, self._lock = fs, threading.Lock()

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Bytes of a file."""
        with self._lock:
            return bytes(self._fs.cat_file(path.lstrip("/"), start=start, end=end))

    def info(self, path: str) -> dict[str, Any]:
        """What is known of a file or folder."""
        with self._lock:
            return dict(self._fs.info(path.lstrip("/")))

    def ls(self, path: str, detail: bool = True) -> list[Any]:
        """What is in a folder."""
        with self._lock:
            return list(self._fs.ls(path.lstrip("/"), detail=detail))


def open_cache(protocol: str, fs: Any, values: Mapping[str, Any]) -> Any:
    """A file system that keeps local copies of what is read from another one."""
    with _said_plainly(protocol):
        made_for = fsspec.get_filesystem_class(protocol)
        return made_for(fs=fs, **dict(values.get(protocol) or {}), skip_instance_cache=True)


def prefix_of(uri: str, path: str) -> str:
    """What stands before a file system's own paths in its URIs: the protocol, and the host where paths leave it out."""
    uri = uri.rstrip("/")
    return uri[: len(uri) - len(path)] if path and uri.endswith(path) else f"{protocol_of(uri)}://"


def info_of(entry: Mapping[str, Any]) -> FileInfo:
    """Bytes of a file that a file system lists, and when it was last changed, as far as it says."""
    when = next((entry[name] for name in ("LastModified", "last_modified", "mtime", "created") if entry.get(name)), 0.0)
    if isinstance(when, datetime):
        when = when.timestamp()
    return int(entry.get("size") or 0), float(when) if isinstance(when, int | float) else 0.0
