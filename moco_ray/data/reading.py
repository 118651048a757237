"""Read the encoded images of rows, and tell an image that cannot be had from a storage that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moco_ray.data.daemon_pool import DaemonPool
from moco_ray.data.decode import BadImage, UInt8Array, decode_image
from moco_ray.data.manifest import Manifest
from moco_ray.storage.checks import any_readable
from moco_ray.storage.errors import KeysRefused, Missing, Refused
from moco_ray.storage.storage import ReadError, Storage, StorageOptions
from moco_ray.storage.uris import shown

_READ_THREADS = 16
_LOCAL_READ_THREADS = 4  # enough for a network disk; on any other, threads mostly wait for each other
_READ_TRIES = 3
_OTHERS_TRIED = 64

Encoded = bytes | BadImage
"""The bytes of an image, or why it is a bad one."""


@dataclass(frozen=True)
class _Refused:
    """A file that the storage did not give: it is a bad image only if the storage gives others."""

    uri: str
    error: Exception

    def as_bad(self) -> BadImage:
        """Why, in a few words, without the file's name."""
        return BadImage(str(self.error).removeprefix(f"{shown(self.uri)}: ").split("; ")[0])


def read_rows(manifest: Manifest, rows: NDArray[np.int64], options: StorageOptions) -> list[Encoded]:
    """Read the encoded images of some rows, in that order.

    An image that is gone, may not be read, has another size than when it was listed or lies in a row group that does
    not decode is a bad one. Where the storage refuses a file, some others are tried before that is believed, and then
    the file once more: a disk that is not mounted or a key that has expired makes no image bad.

    Returns:
        For each row its bytes, or a `BadImage` that says why there are none.

    Raises:
        ReadError: The storage does not answer.
        ValueError: None of the other files that were tried can be read either.
    """
    taken = manifest.table.take(pa.array(rows))
    uris: list[str] = taken["uri"].to_pylist()
    if not uris:
        return []
    storage = Storage.open(uris[0], options)
    found = _read(manifest, taken, storage)
    refused = [i for i, content in enumerate(found) if isinstance(content, _Refused)]
    if refused:
        _check_others(manifest, [content for content in found if isinstance(content, _Refused)], storage)
        for i, content in zip(refused, _read(manifest, taken.take(refused), storage), strict=True):
            found[i] = content
    return [content.as_bad() if isinstance(content, _Refused) else content for content in found]


def decode(content: Encoded, *, max_pixels: int) -> UInt8Array:
    """Decode what `read_rows` gave to upright RGB uint8 (H, W, 3).

    Raises:
        BadImage: It is a bad image, or does not decode.
    """
    if isinstance(content, BadImage):
        raise content
    return decode_image(content, max_pixels=max_pixels)


def _read(manifest: Manifest, taken: pa.Table, storage: Storage) -> list[Encoded | _Refused]:
    uris: list[str] = taken["uri"].to_pylist()
    if manifest.kind == "files":
        tasks = list(zip(uris, taken["num_bytes"].to_pylist(), strict=True))
        return _in_threads(lambda task: _read_file(storage, *task), tasks, storage)
    places = list(zip(uris, taken["row_group"].to_pylist(), taken["row_in_group"].to_pylist(), strict=True))
    groups = sorted({(uri, group) for uri, group, _ in places})
    column = manifest.image_column
    assert column is not None
    read = _in_threads(lambda place: _read_row_group(storage, place[0], place[1], column), groups, storage)
    by_group = dict(zip(groups, read, strict=True))
    return [_cell(by_group[uri, group], group, row) for uri, group, row in places]


def _in_threads(work: Callable[[Any], Any], tasks: list[Any], storage: Storage) -> list[Any]:
    """Do the tasks on threads, each an equal share: handing over one small file at a time costs more than reading it."""
    threads = min(_LOCAL_READ_THREADS if storage.protocol == "file" else _READ_THREADS, len(tasks))
    if threads == 1:
        return [work(task) for task in tasks]
    with DaemonPool(threads) as pool:
        shares = list(pool.map(lambda first: [work(task) for task in tasks[first::threads]], range(threads)))
    return [shares[i % threads][i // threads] for i in range(len(tasks))]


def _is_refusal(error: Exception, storage: Storage) -> bool:
    """Whether an error may be about one file alone: that of a disk may be, of a remote storage only what it answered."""
    if isinstance(error, KeysRefused):
        return False
    return storage.protocol == "file" or not isinstance(error, ReadError)


def _read_file(storage: Storage, uri: str, num_bytes: int) -> Encoded | _Refused:
    path, content = storage.path_of(uri), b""
    try:
        for _ in range(_READ_TRIES):
            content = storage.read_bytes(path, is_first=storage.protocol == "file")
            if num_bytes < 0 or len(content) == num_bytes:
                return content
        now = storage.num_bytes(path)
    except (ValueError, OSError) as error:
        if not _is_refusal(error, storage):
            raise
        return _Refused(uri, error)
    if now == num_bytes:
        raise ReadError(f"{uri} was cut off after {len(content)} of {num_bytes} bytes, {_READ_TRIES} times")
    return BadImage(f"has {now:,} bytes, {num_bytes:,} when it was listed: it has changed since")


def _read_row_group(storage: Storage, uri: str, group: int, column: str) -> pa.ChunkedArray | BadImage | _Refused:
    failure: Exception | None = None
    for _ in range(_READ_TRIES):
        try:
            with storage.open_file(storage.path_of(uri)) as file:
                return pq.ParquetFile(file, pre_buffer=True).read_row_group(group, columns=[column])[column]
        except (pa.ArrowException, KeyError, IndexError) as error:
            failure = error
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno is None and not isinstance(error, ReadError):
                failure = error  # Arrow's own: it could read the bytes, and not make sense of them
            elif _is_refusal(error, storage):
                return _Refused(uri, error)
            else:
                raise
    return BadImage(f"row group {group} cannot be read ({type(failure).__name__}: {failure})")


def _cell(column: pa.ChunkedArray | BadImage | _Refused, group: int, row: int) -> Encoded | _Refused:
    """The bytes of a binary cell, or of Hugging Face's {bytes, path} struct."""
    if isinstance(column, BadImage | _Refused):
        return column
    if row >= len(column):
        return BadImage(f"row group {group} has {len(column)} rows now: it has changed since it was listed")
    value = column[row].as_py()
    if isinstance(value, dict):
        value = value.get("bytes")
    return bytes(value) if value is not None else BadImage("the cell is empty (null)")


def _check_others(manifest: Manifest, refused: list[_Refused], storage: Storage) -> None:
    """Make sure that the storage gives other files of the data than those that it has refused.

    Raises:
        ReadError: It does not answer, or its disk fails for all that were tried.
        ValueError: None of those that were tried is there, or may be read.
    """
    names = manifest.table["uri"].combine_chunks()
    if manifest.kind == "parquet":
        names = names.unique()
    places = np.unique(np.linspace(0, len(names) - 1, _OTHERS_TRIED).round().astype(np.int64))
    bad = {file.uri for file in refused}
    others = [uri for uri in names.take(pa.array(places)).to_pylist() if uri not in bad]
    if others and any_readable(storage, [storage.path_of(uri) for uri in others]):
        return
    tried = f", and none of the {len(others)} others that were tried can be read either" if others else ""
    error = refused[0].error
    may_pass = storage.protocol == "file" and not isinstance(error, Missing | Refused)  # a mount that is broken
    raise (ReadError if may_pass else ValueError)(
        f"{error}{tried}. Is the disk mounted, the bucket there and access allowed? If the images have moved, "
        "name their new place with --data.uri (or --eval.uri)"
    )
