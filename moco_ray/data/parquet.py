"""Parquet files: rows that hold encoded images, or only say where images lie."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from moco_ray.data.daemon_pool import DaemonPool
from moco_ray.data.listed import Rows
from moco_ray.data.parquet_columns import Columns, choose_columns, count_nulls
from moco_ray.data.split_names import Role, has_train_and_other, role_of, role_of_file, roles_by_word
from moco_ray.data.table_columns import only
from moco_ray.data.tables import places_of, reason_without, roles_of, rows_of_uris
from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import protocol_of

log = logging.getLogger(__name__)
_READ_THREADS = 16
_GOOD_ROW_GROUP = 32
_LARGE_ROW_GROUP = 256
_MOST_WINDOW_ROWS = 32_768


def parquet_rows(
    uri: str,
    storage: Storage,
    paths: Sequence[str],
    *,
    image_column: str | None,
    wanted_label: str | None,
    window_mb: float,
) -> Rows:
    """The images of Parquet files, in the order of the files.

    Folders such as label=3/ (hive partitions) give columns that the files lack.

    Args:
        uri: What the user named, for messages.
        storage: Where they are.
        paths: The files, sorted.
        image_column: Column of image bytes that the user named.
        wanted_label: Column of labels that the user named.
        window_mb: Encoded images that are shuffled together, in megabytes.

    Raises:
        ValueError: The files hold no images, or not in one way.
    """
    with DaemonPool(_READ_THREADS) as pool:
        first = _open(storage, paths[0])
        partitions = _partitions(storage, paths[0])
        columns = choose_columns(uri, first, list(partitions), image_column, wanted_label)
        parts = list(pool.map(lambda path: _read(storage, path, columns), paths))
    roles, names, unclear = _roles(storage, paths, parts, columns)
    rows = _place_rows if columns.image is None else _byte_rows
    result = rows(uri, storage, paths, parts, columns, roles)
    result.names.update(names)
    result.notes.extend(unclear)
    if columns.image is not None:
        _warn_of_row_groups(parts)
        result = replace(result, window_rows=_window_rows(parts, len(result.uris), window_mb))
        if nulls := sum(part.num_nulls for part in parts):
            result.notes.append(f"{nulls:,} of {len(result.uris):,} rows have no image bytes, and count as bad images")
    return result


def _check_first(uri: str, storage: Storage, place: str) -> None:
    """Refuse structs that only keep the name that a picture once had."""
    if storage.protocol == protocol_of(uri) and not storage.exists(storage.path_of(uri)):
        raise ValueError(
            f"column {place} names images beside the Parquet file, and the rows hold no bytes, but {uri} is not there; put "
            "the images there, or write their bytes into the file"
        )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What was read of one file; lists are as long as it has rows."""

    sizes: list[int]
    """Rows of each row group."""
    num_nulls: int
    """Rows that are known to have no image bytes."""
    num_bytes: int
    """Of the image column, in memory."""
    places: list[Any] | None
    labels: list[Any] | None
    splits: dict[str, list[Any]]
    """By column."""


def _read(storage: Storage, path: str, columns: Columns) -> _Part:
    file = _open(storage, path)
    partitions = _partitions(storage, path)
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    top = columns.image or (columns.place or "").split(".")[0]
    if top not in file.schema_arrow.names:
        raise ValueError(f"{storage.uri(path)} has no column {top!r}, which other Parquet files there have")

    def read(name: str | None) -> list[Any] | None:
        if name is None:
            return None
        if name not in file.schema_arrow.names and name in partitions:
            return [partitions[name]] * sum(sizes)
        if name not in file.schema_arrow.names:
            raise ValueError(f"{storage.uri(path)} has no column {name!r}, which other Parquet files there have")
        return _values(file, only(storage.uri(path), file.schema_arrow.names, name))

    places = None
    if columns.place is not None:
        name, _, field = columns.place.partition(".")
        cells = file.read(columns=[columns.place])[name].to_pylist()
        places = [cell and cell.get(field) for cell in cells] if field else cells
    _, num_nulls = count_nulls(file, columns.image) if columns.image else (0, 0)
    return _Part(
        sizes=sizes,
        num_nulls=num_nulls,
        num_bytes=_num_bytes(file, columns.image) if columns.image else 0,
        places=places,
        labels=read(columns.label),
        splits={name: read(name) or [] for name in columns.splits},
    )


def _num_bytes(file: pq.ParquetFile, column: str) -> int:
    """Bytes of a column once it is read, as the file says."""
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    parts = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(part.total_uncompressed_size for part in parts if f"{part.path_in_schema}.".startswith(f"{column}."))


def _values(file: pq.ParquetFile, name: str) -> list[Any]:
    """A column as Python values; times to the microsecond, which Python has types for."""
    column = file.read(columns=[name])[name]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us"), safe=False)
    elif pa.types.is_duration(column.type):
        column = column.cast(pa.duration("us"), safe=False)
    elif pa.types.is_time64(column.type):
        column = column.cast(pa.time64("us"), safe=False)
    return list(column.to_pylist())


def _byte_rows(
    uri: str,
    storage: Storage,
    paths: Sequence[str],
    parts: Sequence[_Part],
    columns: Columns,
    roles: list[Role | None],
) -> Rows:
    uris: list[str] = []
    groups: list[int] = []
    rows: list[int] = []
    labels: list[Any] = []
    for path, part in zip(paths, parts, strict=True):
        for group, size in enumerate(part.sizes):
            groups += [group] * size
            rows += range(size)
        total = sum(part.sizes)
        uris += [storage.uri(path)] * total
        labels += part.labels if part.labels is not None else [None] * total
    if not uris:
        raise ValueError(f"{uri} is empty: its Parquet files have no rows")
    reason = reason_without(uri, columns.label)
    return Rows(
        uris=uris,
        labels=labels,
        label_name=columns.label or "",
        roles=roles,
        reasons=dict.fromkeys(("train", "val", "test"), reason) if reason else {},
        groups=groups,
        rows_in_group=rows,
        image_column=columns.image,
    )


def _place_rows(
    uri: str,
    storage: Storage,
    paths: Sequence[str],
    parts: Sequence[_Part],
    columns: Columns,
    roles: list[Role | None],
) -> Rows:
    uris: list[str] = []
    labels: list[Any] = []
    place = str(columns.place)
    for path, part in zip(paths, parts, strict=True):
        uris += places_of(storage.uri(path), place, part.places or [], storage, path.rsplit("/", 1)[0])
        labels += part.labels if part.labels is not None else [None] * sum(part.sizes)
    result = rows_of_uris(
        uri, uris, labels, roles, label_name=columns.label or "", reason=reason_without(uri, columns.label)
    )
    if "." in place:
        _check_first(result.uris[0], storage, place)
        result.notes.append(f"images are read from where {place} says: the rows hold no bytes")
    return result


def _roles(
    storage: Storage, paths: Sequence[str], parts: Sequence[_Part], columns: Columns
) -> tuple[list[Role | None], dict[Role, list[str]], list[str]]:
    """What each row is for, by a column, by the file's name, or by one of the folders that it is in; and what is unclear."""
    splits = {name: [value for part in parts for value in part.splits[name]] for name in columns.splits}
    said, unclear = roles_of(splits, sum(sum(part.sizes) for part in parts))
    if any(said):
        return said, {}, []
    found = [_role_of_path(path[len(storage.root.rstrip("/")) + 1 :]) for path in paths]
    by_name = roles_by_word({name: role for name, role in found})
    roles: list[Role | None] = []
    names: dict[Role, list[str]] = {}
    for (name, _), part in zip(found, parts, strict=True):
        role = by_name[name]
        roles += [role] * sum(part.sizes)
        if role is not None and name not in names.setdefault(role, []):
            names[role].append(name)
    return roles, names, [] if has_train_and_other(by_name.values()) else unclear


def _role_of_path(below: str) -> tuple[str, Role | None]:
    """The folder or file below the root that says what a file is for; the file where none does."""
    *folders, file = below.split("/")
    for folder in folders:
        if (role := role_of(folder.rpartition("=")[2])) is not None:
            return f"{folder}/", role
    return file, role_of_file(file)


def _partitions(storage: Storage, path: str) -> dict[str, str | None]:
    """Columns that the names of folders give: label=3/ and the like."""
    below = path[len(storage.root.rstrip("/")) + 1 :] if path != storage.root else ""
    pairs = [folder.split("=", 1) for folder in below.split("/")[:-1] if "=" in folder]
    return {name: None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for name, value in pairs}


def _open(storage: Storage, path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(storage.open_file(path), pre_buffer=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{storage.uri(path)} is no Parquet file: {error}") from error


def _window_rows(parts: Sequence[_Part], num_rows: int, window_mb: float) -> int:
    """How many rows so many megabytes of encoded images are, in the mean."""
    mean_bytes = sum(part.num_bytes for part in parts) / num_rows
    return max(1, min(_MOST_WINDOW_ROWS, int(1e6 * window_mb / max(mean_bytes, 1.0))))


def _warn_of_row_groups(parts: Sequence[_Part]) -> None:
    largest = max(size for part in parts for size in part.sizes)
    if largest > _LARGE_ROW_GROUP:
        log.warning(
            f"row groups of up to {largest:,} rows: to take {_GOOD_ROW_GROUP} images at random, each step reads up "
            f"to {largest / _GOOD_ROW_GROUP:.0f} times what it uses; row groups of about {_GOOD_ROW_GROUP} rows are best"
        )
