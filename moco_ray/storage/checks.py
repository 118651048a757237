"""What is asked of storage before a run relies on it."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Sequence

from moco_ray.storage import local as local_files
from moco_ray.storage.errors import KeysRefused, ReadError, Refused, final_error
from moco_ray.storage.options import StorageOptions
from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import HTTP, S3, protocol_of, shown, split_uri

_ANSWER_S = 15.0
_PROBE = re.compile(r"/\.writable-[0-9a-f]{32}")


def check_access(uri: str, options: StorageOptions) -> None:
    """Find out within seconds that a server does not answer, or refuses the credentials.

    Args:
        uri: What is to be read; of a chain, what it begins from is asked for.
        options: Access to it.

    Raises:
        ValueError: It refuses, or there is no such server.
        ReadError: It does not answer.
    """
    parts = split_uri(uri)
    while parts.inner is not None:
        uri, parts = parts.inner, split_uri(parts.inner)
    if parts.protocol not in (*S3, *HTTP):
        return
    storage = Storage.open(uri, options, is_quick=True)
    check_bucket(storage)
    if parts.protocol in HTTP:
        storage.is_file(storage.root)


def check_answers(uri: str, options: StorageOptions) -> None:
    """As `check_access`, and find out of every other place that is not local, too, that it does not answer.

    Raises:
        ValueError: It refuses, or there is no such place.
        ReadError: It does not answer.
    """
    check_access(uri, options)
    while (inner := split_uri(uri).inner) is not None:
        uri = inner
    if protocol_of(uri) in ("file", *S3, *HTTP):
        return
    failed: list[Exception] = []

    def ask() -> None:
        try:
            storage = Storage.open(uri, options, is_quick=True)
            storage.exists(storage.root)
        except Exception as error:  # for the thread that waits
            failed.append(error)

    # Clients of some places try again by themselves, for minutes.
    thread = threading.Thread(target=ask, name="storage-check", daemon=True)
    thread.start()
    thread.join(_ANSWER_S)
    if failed:
        raise failed[0]
    if thread.is_alive():
        raise ReadError(
            f"{shown(uri)} does not answer: nothing came in {_ANSWER_S:g} s; check the address or the endpoint, and the network"
        )


def check_bucket(storage: Storage) -> None:
    """Ask for what may be asked for in the bucket, where there are buckets.

    Raises:
        ValueError: There is none of this name, or the credentials are refused.
        ReadError: The endpoint does not answer.
    """
    if storage.protocol not in S3:
        return
    bucket, fs = storage.root.split("/", 1)[0], storage.at_first().fs
    try:
        storage.retry(bucket, lambda: fs.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1), is_first=True)
    except KeysRefused:
        raise
    except Refused:
        pass  # those who may use a bucket's objects need not have access to the bucket


def check_writable(storage: Storage) -> None:
    """Write and delete a small file in the folder.

    Raises:
        ValueError: The folder cannot be written to.
    """
    path = storage.join(f".writable-{uuid.uuid4().hex}")
    try:
        check_bucket(storage)  # some servers would make it on the first write
        storage.write_bytes(path, b"")
        storage.delete(path)
    except ValueError as error:  # name the folder, which a user knows, and not the file
        raise ValueError(f"run.storage-path: {re.sub(_PROBE, '', str(error))}") from error
    except OSError as error:
        raise ValueError(
            f"{shown(storage.uri(storage.root))} cannot be written to ({error}); check the address, or use another folder"
        ) from error


def any_readable(storage: Storage, paths: Sequence[str]) -> bool:
    """Whether one of some files can be read; waits for a storage that does not answer.

    Raises:
        KeysRefused: The credentials are refused, for all of them.
        ReadError: None can, and it may be the storage's fault.
    """

    def look() -> bool:
        passing: Exception | None = None
        for path in paths:
            try:
                _read_first_byte(storage, path)
                return True
            except Exception as error:
                final = final_error(error, path)
                if isinstance(final, KeysRefused):
                    raise
                if final is None:
                    passing = error
                    if storage.protocol != "file":  # each of them would be waited for
                        break
        if passing is not None:
            raise passing
        return False

    return storage.retry(paths[0], look)


def _read_first_byte(storage: Storage, path: str) -> None:
    if storage.protocol == "file":
        with local_files.open_file(path) as file:
            file.read(1)
    else:
        storage.fs.cat_file(path, start=0, end=1)
