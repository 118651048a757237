"""What a data URI can be: a folder of images, a manifest of URIs, or Parquet files with image bytes."""

from __future__ import annotations

import io
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moco_ray.data.formats.extensions import IMAGE_EXTENSIONS
from moco_ray.data.manifest import Manifest, make_manifest
from moco_ray.data.storage import Storage, StorageOptions

_URI_COLUMNS = ("uri", "path", "url", "file", "filename")
_IMAGE_COLUMNS = ("image", "image_bytes", "bytes", "jpg", "jpeg", "png", "img", "content")
_LABEL_COLUMNS = ("label", "class", "target", "cls")
_LISTING_THREADS = 16
_SAY_EVERY_S = 2.0
_GOOD_ROW_GROUP = 32
_LARGE_ROW_GROUP = 256

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images to train on."""

    uri: str = ""
    """A folder of images, a .csv or .parquet manifest with a uri column, or Parquet files with image bytes; a local
    path or any fsspec URL, such as s3://bucket/images."""
    storage_options: str | None = None
    """Access to uri: a JSON object of fsspec options or a file with one. None: the AWS environment or profile."""
    image_column: str | None = None
    """Column of image bytes in Parquet files. None: found by its name or type."""
    label_column: str | None = None
    """Column of labels in a manifest or Parquet files. None: "label" or the like, if there is one."""
    max_bad_fraction: float = 0.02
    """The run stops when a larger share of all images than this does not decode."""
    max_pixels: int = 100_000_000
    """Images with more pixels are bad: a small file can hold a huge image."""


@dataclass(frozen=True)
class _File:
    path: str
    num_bytes: int


def build_manifest(config: DataConfig, options: StorageOptions, progress: Progress) -> Manifest:
    """List the images of a URI, sorted by URI and row, so that the result does not depend on the listing.

    Args:
        config: Where the images are.
        options: Access to them.
        progress: Told at least every two seconds how far a listing is, and of what may be slow later.

    Raises:
        ValueError: The URI cannot be read, or there are no images.
    """
    storage = Storage.open(config.uri, options)
    if storage.is_file(storage.root):
        files = [_File(storage.root, -1)]
        extension = _extension(storage.root)
        if extension == ".csv":
            return _from_table(config, storage, _read_csv(storage))
        if extension != ".parquet":
            raise ValueError(
                f"{config.uri} is a file; use a folder of images, a .csv or .parquet manifest or Parquet files"
            )
    else:
        files = _list_files(config, storage, progress)
    images = [file for file in files if _extension(file.path) in IMAGE_EXTENSIONS]
    if images:
        return _from_images(storage, images)
    parquet = [file.path for file in files if _extension(file.path) == ".parquet"]
    if parquet:
        return _from_parquet(config, storage, parquet, progress)
    seen = Counter(_extension(file.path) or "no extension" for file in files)
    kinds = ", ".join(f"{count} {extension}" for extension, count in seen.most_common(8))
    raise ValueError(
        f"{config.uri} holds no image: {len(files)} files were seen ({kinds}); images end in .jpg, .png, .webp, .tif and so on"
    )


def _list_files(config: DataConfig, storage: Storage, progress: Progress) -> list[_File]:
    """Every file below the folder, listed folder by folder on threads."""
    files: list[_File] = []
    last_s = time.monotonic()
    num_folders = 0
    with ThreadPoolExecutor(_LISTING_THREADS) as pool:
        waiting: set[Future[tuple[str, list[tuple[str, int, bool]]]]] = {pool.submit(_list_one, storage, storage.root)}
        while waiting:
            done, waiting = wait(waiting, timeout=_SAY_EVERY_S, return_when=FIRST_COMPLETED)
            for future in done:
                folder, entries = future.result()
                num_folders += 1
                for name, num_bytes, is_folder in entries:
                    if name.startswith("."):
                        continue
                    path = f"{folder.rstrip('/')}/{name}"
                    if is_folder:
                        waiting.add(pool.submit(_list_one, storage, path))
                    else:
                        files.append(_File(path, num_bytes))
            if time.monotonic() - last_s >= _SAY_EVERY_S:
                last_s = time.monotonic()
                progress(f"listed {len(files):,} files in {num_folders:,} folders, {len(waiting):,} folders to go")
    if not files:
        if not storage.exists(storage.root):
            storage.check_bucket()
            raise ValueError(f"{config.uri} does not exist; check the path")
        raise ValueError(f"{config.uri} is empty: there is no file in it")
    return sorted(files, key=lambda file: file.path)


def _list_one(storage: Storage, folder: str) -> tuple[str, list[tuple[str, int, bool]]]:
    return folder, storage.list(folder)


def _extension(path: str) -> str:
    return os.path.splitext(path.rsplit("/", 1)[-1])[1].lower()


def _from_images(storage: Storage, images: Sequence[_File]) -> Manifest:
    below = [file.path[len(storage.root.rstrip("/")) + 1 :] for file in images]
    tops = [path.split("/", 1)[0] if "/" in path else None for path in below]
    names = sorted({top for top in tops if top is not None})
    labels: list[str | None] = tops if None not in tops and len(names) > 1 else [None] * len(tops)
    ids, classes = _encode_labels(labels)
    return make_manifest(
        uris=[storage.uri(file.path) for file in images],
        labels=ids,
        classes=classes,
        num_bytes=np.array([file.num_bytes for file in images], dtype=np.int64),
    )


def _read_csv(storage: Storage) -> pa.Table:
    # Names such as 007 or 1e5 are no numbers.
    convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(_URI_COLUMNS, pa.string()))
    try:
        table = pa.csv.read_csv(io.BytesIO(storage.read_bytes(storage.root)), convert_options=convert)
        return table.rename_columns(table.column_names)  # decodes the names, here and not later
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise ValueError(f"{storage.uri(storage.root)} is no table of comma-separated values: {error}") from error


def _from_table(config: DataConfig, storage: Storage, table: pa.Table) -> Manifest:
    """A manifest of URIs: taken literally, relative ones from the manifest's folder."""
    column = next((name for name in _URI_COLUMNS if name in table.column_names), None)
    if column is None:
        raise ValueError(f"{config.uri} has no uri column; its columns are {', '.join(table.column_names)}")
    folder = storage.root.rsplit("/", 1)[0]
    uris: list[str] = []
    for value in table[column].to_pylist():
        if not value:
            raise ValueError(f"{config.uri} has an empty {column} in row {len(uris)}")
        text = str(value)
        uris.append(text if "://" in text or text.startswith("/") else storage.uri(f"{folder}/{text}"))
    if not uris:
        raise ValueError(f"{config.uri} is empty: it names no image")
    if len({uri.split("://", 1)[0] if "://" in uri else "" for uri in uris}) > 1:
        raise ValueError(f"{config.uri} mixes protocols; use one manifest for each")
    labels = _label_values(config, table)
    ids, classes = _encode_labels(labels if labels is not None else [None] * len(uris))
    order = sorted(range(len(uris)), key=uris.__getitem__)
    return make_manifest(uris=[uris[i] for i in order], labels=ids[order], classes=classes)


def _from_parquet(config: DataConfig, storage: Storage, paths: Sequence[str], progress: Progress) -> Manifest:
    with ThreadPoolExecutor(_LISTING_THREADS) as pool:
        schema = _open_parquet(storage, paths[0]).schema_arrow
        column = _image_column(config, schema)
        if column is None:
            if len(paths) == 1 and any(name in schema.names for name in _URI_COLUMNS):
                return _from_table(config, storage, pq.read_table(io.BytesIO(storage.read_bytes(paths[0]))))
            raise ValueError(
                f"{config.uri} has no column of image bytes; its columns are {', '.join(schema.names)}. "
                "Name it with data.image-column"
            )
        label = _label_column(config, schema.names)
        parts = list(pool.map(lambda path: _parquet_rows(storage, path, column, label), paths))
    uris: list[str] = []
    groups: list[int] = []
    rows: list[int] = []
    labels: list[Any] = []
    for path, (sizes, values) in zip(paths, parts, strict=True):
        for group, size in enumerate(sizes):
            groups += [group] * size
            rows += range(size)
        uris += [storage.uri(path)] * sum(sizes)
        labels += values if values is not None else [None] * sum(sizes)
    if not uris:
        raise ValueError(f"{config.uri} is empty: its Parquet files have no rows")
    largest = max(size for sizes, _ in parts for size in sizes)
    if largest > _LARGE_ROW_GROUP:
        progress(
            f"warning: row groups of up to {largest:,} rows: to take {_GOOD_ROW_GROUP} images at random, each step reads up "
            f"to {largest / _GOOD_ROW_GROUP:.0f} times what it uses; row groups of about {_GOOD_ROW_GROUP} rows are best"
        )
    ids, classes = _encode_labels(labels)
    return make_manifest(
        uris=pa.array(uris, pa.string()),
        labels=ids,
        classes=classes,
        row_groups=np.array(groups),
        rows_in_group=np.array(rows),
        image_column=column,
    )


def _open_parquet(storage: Storage, path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(storage.open_file(path), pre_buffer=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{storage.uri(path)} is no Parquet file: {error}") from error


def _parquet_rows(storage: Storage, path: str, column: str, label: str | None) -> tuple[list[int], list[Any] | None]:
    """Rows of each row group, and the labels."""
    file = _open_parquet(storage, path)
    for name in (column, label):
        if name is not None and name not in file.schema_arrow.names:
            raise ValueError(f"{storage.uri(path)} has no column {name!r}, which other Parquet files there have")
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    return sizes, file.read(columns=[label])[label].to_pylist() if label else None


def _image_column(config: DataConfig, schema: pa.Schema) -> str | None:
    def holds_bytes(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(
                kind.field(i).name == "bytes" and holds_bytes(kind.field(i).type) for i in range(kind.num_fields)
            )
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    if config.image_column is not None:
        if config.image_column not in schema.names:
            raise ValueError(
                f"data.image-column {config.image_column!r} is not in {config.uri}; its columns are {', '.join(schema.names)}"
            )
        if not holds_bytes(kind := schema.field(config.image_column).type):
            raise ValueError(f"data.image-column {config.image_column!r} of {config.uri} is {kind}, not bytes")
        return config.image_column
    candidates = [name for name in schema.names if holds_bytes(schema.field(name).type)]
    named = [name for name in _IMAGE_COLUMNS if name in candidates]
    return named[0] if named else candidates[0] if len(candidates) == 1 else None


def _label_column(config: DataConfig, names: Sequence[str]) -> str | None:
    if config.label_column is not None:
        if config.label_column not in names:
            raise ValueError(
                f"data.label-column {config.label_column!r} is not in {config.uri}; its columns are {', '.join(names)}"
            )
        return config.label_column
    return next((name for name in _LABEL_COLUMNS if name in names), None)


def _label_values(config: DataConfig, table: pa.Table) -> list[Any] | None:
    column = _label_column(config, table.column_names)
    return table[column].to_pylist() if column else None


def _encode_labels(values: Sequence[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Numbers of the sorted class names; -1 for None. Integers sort as numbers."""
    present = {value for value in values if value is not None}
    ordered = sorted(present) if all(isinstance(value, int) for value in present) else sorted(map(str, present))
    classes = tuple(map(str, ordered))
    ids = {name: i for i, name in enumerate(classes)}
    return np.array([-1 if value is None else ids[str(value)] for value in values], dtype=np.int64), classes
