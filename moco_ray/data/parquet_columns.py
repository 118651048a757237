"""Which columns of a Parquet file hold images, or say where they lie, and which labels and splits."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from moco_ray.data.tables import SPLIT_COLUMNS, find_column, label_column, only
from moco_ray.data.text_tables import URI_COLUMNS

_IMAGE_COLUMNS = ("image", "image_bytes", "bytes", "jpg", "jpeg", "png", "img", "content")
_PLACE_FIELDS = ("path", "uri", "url", "file_name")
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
    split: str | None
    """What each row is for."""


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
    image = _image_column(uri, schema, image_column)
    place = None
    if image is not None and (field := _place_field(schema.field(image).type)) and _has_places_only(file, image, field):
        image, place = None, f"{image}.{field}"
    elif image is None:
        place = _place_column(uri, schema)
    if image is None and place is None:
        raise ValueError(_no_images(uri, schema))
    label = label_column(uri, names, wanted_label)
    return Columns(image=image, place=place, label=label, split=find_column(uri, names, SPLIT_COLUMNS))


def _image_column(uri: str, schema: pa.Schema, wanted: str | None) -> str | None:
    if wanted is not None:
        if wanted not in schema.names:
            raise ValueError(f"data.image-column {wanted!r} is not in {uri}; its columns are {', '.join(schema.names)}")
        if not _holds_bytes(kind := schema.field(only(uri, schema.names, wanted)).type):
            raise ValueError(f"data.image-column {wanted!r} of {uri} is {kind}, not bytes")
        return wanted
    candidates = [field.name for field in schema if _holds_bytes(field.type)]
    named = [name for name in _IMAGE_COLUMNS if name in candidates]
    found = named[0] if named else candidates[0] if len(candidates) == 1 else None
    return only(uri, schema.names, found) if found else None


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" and _holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


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


def _place_column(uri: str, schema: pa.Schema) -> str | None:
    usable = [field.name for field in schema if _is_text(field.type) or _place_field(field.type)]
    name = find_column(uri, usable, URI_COLUMNS)
    if name is None:
        return None
    field = _place_field(schema.field(only(uri, schema.names, name)).type)
    return f"{name}.{field}" if field else name


def _no_images(uri: str, schema: pa.Schema) -> str:
    columns = ", ".join(schema.names)
    others = [field for field in schema if field.name.casefold() in _IMAGE_COLUMNS and not _is_text(field.type)]
    if others and not _holds_bytes(others[0].type):
        return (
            f"{uri} has no column of image bytes: {others[0].name} is {others[0].type} and not the bytes of an encoded image; "
            "write the bytes of PNG or JPEG files"
        )
    return (
        f"{uri} has no column of image bytes; its columns are {columns}. Name it with data.image-column (found by "
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
