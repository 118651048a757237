"""Which columns of a Parquet file hold images, or say where they lie, and which labels and splits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moco_ray.data.folders import extension_of
from moco_ray.data.formats.bad_image import BadImage
from moco_ray.data.formats.extensions import IMAGE_EXTENSIONS
from moco_ray.data.formats.known import find_format
from moco_ray.data.split_names import is_mask
from moco_ray.data.table_columns import (
    LABEL_COLUMNS,
    SPLIT_COLUMNS,
    find_column,
    label_column,
    only,
    place_column,
    split_columns,
)
from moco_ray.data.text_tables import URI_COLUMNS
from moco_ray.storage.storage import ReadError

_IMAGE_COLUMNS = ("image", "image_bytes", "bytes", "jpg", "jpeg", "png", "img", "content")
_PLACE_FIELDS = ("path", "uri", "url", "file_name")
_FIRST_VALUES = 8
_LONGEST_TEXT = 1024  # in the mean: columns of larger values are not read to see what they hold
_PAGE_BYTES = 1024  # header of a page
_BYTES_OF_NULLS = 4  # a column chunk of nulls takes less than this for each row


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns are used."""

    image: str | None
    """Image bytes; None: only places."""
    place: str | None
    """Places of images, perhaps a field of a struct ("image.path")."""
    label: str | None
    """Labels."""
    splits: list[str]
    """What each row is for, by the first of them that tells train from others."""


def choose_columns(
    uri: str, file: pq.ParquetFile, partitions: list[str], image_column: str | None, wanted_label: str | None
) -> Columns:
    """Find the columns in the first of some files.

    Args:
        uri: What the user named, for messages.
        file: The first file.
        partitions: Columns that the names of folders give.
        image_column: Column of image bytes that the user named.
        wanted_label: Column of labels that the user named.

    Raises:
        ValueError: A named column is not there, or nothing says where images are.
    """
    schema = file.schema_arrow
    names = [*schema.names, *(name for name in partitions if name not in schema.names)]
    binary = [field.name for field in schema if _holds_bytes(field.type)]
    texts = [name for name in binary if _is_text_in_bytes(file, name)]
    binary = [name for name in binary if name not in texts]
    texts += [field.name for field in schema if _is_text(field.type) or _place_field(field.type)]
    if image_column is None:
        image = _image_column(uri, file, binary, texts)
        place = place_column(uri, texts, None, lambda name: _first_texts(file, name)) if image is None else None
        if image is None and place is None:
            raise ValueError(_no_images(uri, schema, binary))
    else:
        image, place = _wanted(uri, schema, image_column, binary, texts)
    if image is not None and (field := _place_field(schema.field(image).type)) and _has_places_only(file, image, field):
        image, place = None, image
    if place is not None and (field := _place_field(schema.field(only(uri, schema.names, place)).type)):
        place = f"{place}.{field}"
    label = label_column(uri, names, wanted_label)
    return Columns(image=image, place=place, label=label, splits=split_columns(uri, names, label))


def _wanted(
    uri: str, schema: pa.Schema, wanted: str, binary: Sequence[str], texts: Sequence[str]
) -> tuple[str | None, str | None]:
    """The column that a user named, as one of image bytes or as one of places."""
    if wanted not in schema.names:
        raise ValueError(f"data.image-column {wanted!r} is not in {uri}; its columns are {', '.join(schema.names)}")
    kind = schema.field(only(uri, schema.names, wanted)).type
    if wanted in binary:
        return wanted, None
    if wanted in texts:
        return None, wanted
    if _holds_several(schema.field(wanted)):
        raise ValueError(f"data.image-column {wanted!r} of {uri} {_several(kind)}")
    raise ValueError(f"data.image-column {wanted!r} of {uri} is {kind}, not bytes, nor text that says where images lie")


def _image_column(uri: str, file: pq.ParquetFile, binary: Sequence[str], texts: Sequence[str]) -> str | None:
    """The column of image bytes: by its name, else the only one; beside a column of places only if it holds images."""
    schema = file.schema_arrow
    found = find_column(uri, binary, _IMAGE_COLUMNS)
    if found is None:
        others = [name for name in binary if name.casefold() not in (*LABEL_COLUMNS, *SPLIT_COLUMNS)]
        if find_column(uri, texts, URI_COLUMNS):
            others = [name for name in others if not is_mask(name) and _are_images(file, only(uri, schema.names, name))]
        found = others[0] if len(others) == 1 else None
    return only(uri, schema.names, found) if found else None


def _is_text_in_bytes(file: pq.ParquetFile, name: str) -> bool:
    """Whether a column of bytes says where images lie: Spark, Hive and Impala may write text so."""
    schema = file.schema_arrow
    is_once = schema.names.count(name) == 1
    if name.casefold() not in URI_COLUMNS or not is_once or pa.types.is_struct(schema.field(name).type):
        return False
    texts = [_text(value) for value in _first_values(file, name, _LONGEST_TEXT)]
    if name.casefold() in _IMAGE_COLUMNS:
        return bool(texts) and all(text and extension_of(text) in IMAGE_EXTENSIONS for text in texts)
    return bool(texts) and all(texts)


def _are_images(file: pq.ParquetFile, name: str) -> bool:
    """Whether cells are structs, as images are, or most of the first begin as images do: a few may be bad ones."""
    if pa.types.is_struct(file.schema_arrow.field(name).type):
        return True
    values = _first_values(file, name)
    return 2 * sum(map(_is_image, values)) > len(values)


def _is_image(value: bytes) -> bool:
    try:
        return bool(find_format(value))
    except BadImage:
        return False


def _first_values(file: pq.ParquetFile, name: str, longest: float = math.inf) -> list[Any]:
    """A few values of the first row group; none where they do not decode, or are longer in the mean: it would take long."""
    if file.metadata.num_row_groups == 0:
        return []
    group = file.metadata.row_group(0)
    chunks = [group.column(i) for i in range(group.num_columns)]
    size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == name)
    if size > longest * group.num_rows + _PAGE_BYTES:
        return []
    try:
        batch = next(file.iter_batches(batch_size=_FIRST_VALUES, row_groups=[0], columns=[name]), None)
    except pa.ArrowException:
        return []
    except OSError as error:
        if error.errno is not None or isinstance(error, ReadError):
            raise
        return []  # Arrow's own: it could read the bytes, and not make sense of them
    return [] if batch is None else [value for value in batch.column(0).to_pylist() if value]


def _first_texts(file: pq.ParquetFile, name: str) -> list[str | None]:
    schema = file.schema_arrow
    if schema.names.count(name) > 1 or pa.types.is_struct(schema.field(name).type):
        return [None]
    return [_text(value) for value in _first_values(file, name, _LONGEST_TEXT)]


def _text(value: bytes | str) -> str | None:
    try:
        if isinstance(value, str):
            return value
        return value.decode() if b"\0" not in value else None
    except UnicodeDecodeError:
        return None


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether cells are bytes, or structs with bytes."""
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" and _is_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_bytes(kind.value_type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _holds_several(field: pa.Field) -> bool:
    """Whether cells are lists of images, or of their places."""
    kind = field.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return False
    is_of_places = field.name.casefold() in URI_COLUMNS and _is_text(kind.value_type)
    return _holds_bytes(kind.value_type) or _place_field(kind.value_type) is not None or is_of_places


def _several(kind: pa.DataType) -> str:
    return f"holds several images a row ({kind}); write one image a row"


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _place_field(kind: pa.DataType) -> str | None:
    """The field of a struct that says where an image lies."""
    if not pa.types.is_struct(kind):
        return None
    texts = {kind.field(i).name for i in range(kind.num_fields) if _is_text(kind.field(i).type)}
    return next((name for name in _PLACE_FIELDS if name in texts), None)


def _no_images(uri: str, schema: pa.Schema, binary: Sequence[str]) -> str:
    columns = ", ".join(schema.names)
    if len(binary) > 1:
        return (
            f"{uri} has several columns of bytes ({', '.join(binary)}); name the one that holds the images with "
            "--data.image-column"
        )
    for field in schema:
        if _holds_several(field):
            return f"{uri} has no column of one image a row: {field.name} {_several(field.type)}"
    others = [field for field in schema if field.name.casefold() in _IMAGE_COLUMNS and not _is_text(field.type)]
    if others and not _holds_bytes(others[0].type):
        return (
            f"{uri} has no column of image bytes: {others[0].name} is {others[0].type} and not the bytes of an encoded image; "
            "write the bytes of PNG or JPEG files"
        )
    return (
        f"{uri} has no column of image bytes; its columns are {columns}. Name it with --data.image-column (found by "
        f"themselves: {', '.join(_IMAGE_COLUMNS)}, or one column of bytes), or name a column of images' places "
        f"{', '.join(URI_COLUMNS[:3])} or the like"
    )


def _has_places_only(file: pq.ParquetFile, column: str, field: str) -> bool:
    """Whether structs hold no bytes at all, and each of them a place."""
    num_rows, num_nulls = count_nulls(file, column)
    return 0 < num_rows == num_nulls and count_nulls(file, f"{column}.{field}")[1] == 0


def count_nulls(file: pq.ParquetFile, column: str) -> tuple[int, int]:
    """Rows of a column (of a struct: of its bytes), and how many are null, without reading it."""
    num_rows, num_nulls = 0, 0
    for group in range(file.metadata.num_row_groups):
        meta = file.metadata.row_group(group)
        for chunk in (meta.column(i) for i in range(meta.num_columns)):
            if chunk.path_in_schema not in (column, f"{column}.bytes"):
                continue
            num_rows += chunk.num_values
            if chunk.statistics is not None and chunk.statistics.has_null_count:
                num_nulls += chunk.statistics.null_count
            elif chunk.total_uncompressed_size < _BYTES_OF_NULLS * chunk.num_values:
                num_nulls += chunk.num_values
    return num_rows, num_nulls
