"""Files on a local disk or behind an fsspec URL: credentials, retries, and errors that say what to do."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import fsspec

from moco_ray.data import local_files, s3_files
from moco_ray.data.range_reader import RangeReader, whole

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_PATIENCE_S = 120.0  # a training that runs outlives a storage that is away for this long
_FIRST_PATIENCE_S = 10.0  # for what a run asks first: a mistyped endpoint should not take minutes to be noticed

_S3 = ("s3", "s3a")

_PROBE = re.compile(r"/\.writable-[0-9a-f]{32}")

T = TypeVar("T")


class ReadError(OSError):
    """Bytes could not be read or written, though it should be possible, after all retries."""


class NoSpaceError(OSError):
    """The disk, or the user's share of it, is full."""


@dataclass(frozen=True)
class StorageOptions:
    """Keyword options of an fsspec file system. May hold credentials, so it never shows its values."""

    values: Mapping[str, Any]
    """The options."""

    def __repr__(self) -> str:
        """Names only."""
        return f"StorageOptions({', '.join(sorted(self.values))})"


def resolve_storage_options(uri: str, options: str | None) -> StorageOptions:
    """Decide, on the driver, with which options every process opens a URI.

    For s3:// what is not given comes from the standard AWS environment or profile, so that nodes without any need
    none. Credentials of an instance or container role are left to each node, since they expire.

    Args:
        uri: The URI to open.
        options: A JSON object of fsspec options, a file with one, or None.

    Raises:
        ValueError: The options are no JSON object.
    """
    values = _parse_options(options)
    if _protocol(uri) in _S3:
        values = s3_files.with_aws_defaults(values)
    elif _protocol(uri) == "file":
        values = {}
    return StorageOptions(values)


def _parse_options(options: str | None) -> dict[str, Any]:
    if options is None:
        return {}
    text = options
    if not options.lstrip().startswith("{"):
        path = Path(options).expanduser()
        if not path.is_file():
            raise ValueError("storage-options is neither a JSON object nor the path of a file with one")
        text = path.read_text()
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"storage-options is no valid JSON (character {error.pos})") from None
    if not isinstance(values, dict):
        raise ValueError("storage-options is JSON, but no object of option names and values")
    return values


def split_uri(uri: str) -> tuple[str, str]:
    """Split a URI into protocol and path, both literal: no escapes, no globs, no chains."""
    protocol = _protocol(uri)
    return protocol, uri.split("://", 1)[1] if "://" in uri else os.path.abspath(os.path.expanduser(uri))


def _protocol(uri: str) -> str:
    return uri.split("://", 1)[0].lower() if "://" in uri else "file"


@dataclass(frozen=True)
class Storage:
    """A folder (or file) on a file system."""

    fs: Any
    """The fsspec file system."""
    protocol: str
    """Of the URIs, "file" for local paths."""
    root: str
    """Path of the folder, as the file system writes it."""

    @staticmethod
    def open(uri: str, options: StorageOptions) -> Storage:
        """Open a URI, without yet touching what is there.

        Raises:
            ValueError: No such protocol.
        """
        protocol, path = split_uri(uri)
        values = dict(options.values)
        try:
            fs = s3_files.open_s3(values) if protocol in _S3 else fsspec.filesystem(protocol, **values)
        except (ValueError, ImportError) as error:
            raise ValueError(f"{protocol}:// cannot be opened: {error}") from error
        return Storage(fs, protocol, path.rstrip("/") or "/")

    def join(self, *parts: str) -> str:
        """Path of something in the folder."""
        return "/".join([self.root.rstrip("/"), *parts]) if parts else self.root

    def uri(self, path: str) -> str:
        """URI of a path of this file system; a local path is its own."""
        return path if self.protocol == "file" else f"{self.protocol}://{path}"

    def read_bytes(self, path: str, *, is_first: bool = False) -> bytes:
        """Read a whole file, again if the connection fails.

        Args:
            path: The file.
            is_first: Give up after seconds instead of minutes.

        Raises:
            ValueError: It does not exist, may not be read or is no file.
            ReadError: Reading failed for other reasons, several times.
        """
        read = local_files.read_file if self.protocol == "file" else self.fs.cat_file
        return self._retry(path, lambda: bytes(read(path)), is_first=is_first)

    def num_bytes(self, path: str) -> int:
        """Size of a file; raises as `read_bytes` does."""
        look = (lambda: os.stat(path).st_size) if self.protocol == "file" else (lambda: self.fs.info(path)["size"])
        return int(self._retry(path, look))

    def any_readable(self, paths: Sequence[str]) -> bool:
        """Whether one of some files can be read; waits for a storage that does not answer.

        Raises:
            ReadError: None can, and it may be the storage's fault.
        """

        def look() -> bool:
            passing: Exception | None = None
            for path in paths:
                try:
                    self._read_first_byte(path)
                    return True
                except Exception as error:
                    if _final_error(error, path) is None:
                        passing = error
                        if self.protocol != "file":  # each of them would be waited for
                            break
            if passing is not None:
                raise passing
            return False

        return self._retry(paths[0], look)

    def _read_first_byte(self, path: str) -> None:
        if self.protocol == "file":
            with local_files.open_file(path) as file:
                file.read(1)
        else:
            self.fs.cat_file(path, start=0, end=1)

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a whole file: it appears whole or not at all.

        Raises:
            ValueError: It may not be written.
            ReadError: Writing failed for other reasons, several times.
        """
        if self.protocol == "file":
            self._retry(path, lambda: local_files.write_file(path, data))
            return
        limit = {"timeout": s3_files.upload_limit_s(self.fs, len(data))} if self.protocol in _S3 else {}
        self._retry(path, lambda: self.fs.pipe_file(path, data, **limit))

    def open_file(self, path: str) -> BinaryIO:
        """Open a file for reading at random; each read asks for its own bytes and no more, again if it fails.

        Raises:
            ValueError: It does not exist or may not be read.
            ReadError: Asking for its size failed for other reasons, several times.
        """
        if self.protocol == "file":
            return self._retry(path, lambda: local_files.open_file(path))
        num_bytes = self.num_bytes(path)

        def read(first: int, last: int) -> bytes:
            return self._retry(path, lambda: whole(self.fs.cat_file(path, start=first, end=last), last - first))

        return cast(BinaryIO, RangeReader(num_bytes, read))

    def exists(self, path: str) -> bool:
        """Whether a file or folder is there."""
        look = local_files.exists if self.protocol == "file" else self.fs.exists
        return bool(self._retry(path, lambda: look(path)))

    def is_file(self, path: str) -> bool:
        """Whether a file is there."""
        try:  # isfile() of fsspec takes every failure for a no
            return bool(self._retry(path, lambda: self.fs.info(path)["type"], is_first=True) == "file")
        except _Missing:
            return False

    def list(self, path: str) -> list[tuple[str, int, bool]]:
        """(name, bytes, is a folder) of what is directly in a folder; empty if there is none."""
        if self.protocol == "file":
            return self._retry(path, lambda: local_files.list_folder(path))
        try:
            entries = self._retry(path, lambda: self.fs.ls(path, detail=True))
        except _Missing:
            return []
        found = []
        for entry in entries:
            name = entry["name"].rstrip("/").rsplit("/", 1)[-1]
            if entry["name"].rstrip("/") != path.rstrip("/") and name:
                found.append((name, int(entry.get("size") or 0), entry["type"] == "directory"))
        return found

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with all that is in it; nothing if it is not there."""
        if self.protocol == "file":
            self._retry(path, lambda: local_files.delete(path))
            return
        # Name by name: fsspec's recursive delete reads *, ? and [ as a pattern, and deletes what matches.
        for name, _, _ in self.list(path):
            self.delete(f"{path.rstrip('/')}/{name}")
        with contextlib.suppress(_Missing):
            self._retry(path, lambda: self.fs.rm_file(path))

    def check_bucket(self) -> None:
        """Ask for the bucket itself, where there are buckets.

        Raises:
            ValueError: There is none of this name.
            ReadError: The endpoint does not answer.
        """
        if self.protocol not in _S3:
            return
        bucket = self.root.split("/", 1)[0]
        try:
            self._retry(bucket, lambda: self.fs.call_s3("head_bucket", Bucket=bucket), is_first=True)
        except _Missing as error:
            raise ValueError(f"{self.uri(bucket)}: there is no such bucket; check its name and the endpoint") from error
        except ValueError:
            pass  # those who may use a bucket's objects need not have access to the bucket

    def check_writable(self) -> None:
        """Write and delete a small file in the folder.

        Raises:
            ValueError: The folder cannot be written to.
        """
        self.check_bucket()  # some servers would make it on the first write
        path = self.join(f".writable-{uuid.uuid4().hex}")
        try:
            self.write_bytes(path, b"")
            self.delete(path)
        except ValueError as error:  # name the folder, which a user knows, and not the file
            raise ValueError(f"run.storage-path: {re.sub(_PROBE, '', str(error))}") from error
        except OSError as error:
            raise ValueError(f"{self.uri(self.root)} cannot be written to ({error}); use another folder") from error

    def _retry(self, path: str, work: Callable[[], T], *, is_first: bool = False) -> T:
        patience_s = _FIRST_PATIENCE_S if is_first else _PATIENCE_S
        start, pause, tries = time.monotonic(), _FIRST_PAUSE_S, 0
        while True:
            try:
                return work()
            except Exception as error:
                if (final := _final_error(error, self.uri(path))) is not None:
                    raise final from error
                tries += 1
                elapsed = time.monotonic() - start
                if elapsed + pause > patience_s:
                    why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                    raise ReadError(f"{self.uri(path)}: {why} (tried {tries} times in {elapsed:.0f} s)") from error
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)


class _Missing(ValueError):
    pass


def _final_error(error: Exception, uri: str) -> ValueError | NoSpaceError | None:
    """The error to show a user for one that trying again now would not mend; None if it might."""
    if isinstance(error, ValueError | NotImplementedError) and not isinstance(error, OSError):
        return ValueError(f"{uri}: {error}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(f"no space left for {uri}: free some, older checkpoints for example")
    name, text = type(error).__name__, str(error)
    if name == "NoCredentialsError" or "NoCredentials" in text:
        return ValueError(
            f"{uri}: there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or "
            "pass storage-options"
        )
    refused = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "Forbidden", "ExpiredToken")
    if isinstance(error, PermissionError) or any(word in text for word in refused):
        return ValueError(f"{uri}: access is refused ({text or name}); check credentials and permissions")
    if "NoSuchBucket" in text or "bucket does not exist" in text:
        return _Missing(f"{uri}: there is no such bucket; check its name and the endpoint")
    # An upload that the server completed, though its answer was lost, is unknown when it is completed again.
    if isinstance(error, FileNotFoundError) and s3_files.error_code(error) != "NoSuchUpload":
        return _Missing(f"{uri}: there is no such file or folder")
    hopeless = (errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EFBIG)
    if isinstance(error, OSError) and error.errno in hopeless:
        return ValueError(f"{uri}: {error.strerror}; use another path")
    return None
