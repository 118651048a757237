"""Which columns of a table hold the places of images, their labels and splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from moco_ray.data.folders import extension_of
from moco_ray.data.formats.extensions import IMAGE_EXTENSIONS
from moco_ray.data.text_tables import URI_COLUMNS


def find_column(uri: str, names: Sequence[str], accepted: Sequence[str]) -> str | None:
    """The first accepted name that a table has, in small letters or capitals.

    Raises:
        ValueError: Two columns have it.
    """
    plain = [name.strip().casefold() for name in names]
    for name in accepted:
        if name in plain:
            return only(uri, names, names[plain.index(name)])
    return None


def only(uri: str, names: Sequence[str], name: str) -> str:
    """The name of a column that is there once.

    Raises:
        ValueError: Two columns have it.
    """
    if list(names).count(name) > 1:
        raise ValueError(f"{uri} has {list(names).count(name)} columns of the name {name!r}; rename all but one")
    return name


def label_column(uri: str, names: Sequence[str], wanted: str | None) -> str | None:
    """The column of labels: the one that was named, else the first of an accepted name.

    Raises:
        ValueError: The named one is not there, or there are two.
    """
    if wanted is None:
        return find_column(uri, names, LABEL_COLUMNS)
    if wanted not in names:
        raise ValueError(f"data.label-column {wanted!r} is not in {uri}; its columns are {', '.join(names)}")
    return only(uri, names, wanted)


def place_column(
    uri: str, names: Sequence[str], wanted: str | None, first_cells: Callable[[str], Sequence[Any]]
) -> str | None:
    """The column of images' places: the one that was named, else the first of an accepted name that does not look like ids.

    Args:
        uri: Of the table, for messages.
        names: Its columns.
        wanted: The one that the user named.
        first_cells: Gives a few cells of a column, of those that are there once.

    Raises:
        ValueError: The named one is not there, or there are two.
    """
    if wanted is not None:
        if wanted not in names:
            raise ValueError(f"data.image-column {wanted!r} is not in {uri}; its columns are {', '.join(names)}")
        return only(uri, names, wanted)
    first = find_column(uri, names, URI_COLUMNS)
    cells = first_cells(first) if first is not None else []
    if first is None or not cells or any(_is_place_like(cell) for cell in cells):
        return first
    others = [name for name in URI_COLUMNS if name != first.strip().casefold()]
    while (other := find_column(uri, names, others)) is not None:
        if (cells := first_cells(other)) and all(_has_image_extension(cell) for cell in cells):
            return other
        others = others[others.index(other.strip().casefold()) + 1 :]
    return first


def _is_place_like(cell: Any) -> bool:
    return not isinstance(cell, str | int) or any(mark in str(cell) for mark in ("/", "\\", ".")) or not str(cell)


def _has_image_extension(cell: Any) -> bool:
    return isinstance(cell, str) and extension_of(cell) in IMAGE_EXTENSIONS


def split_columns(uri: str, names: Sequence[str], label: str | None) -> list[str]:
    """Columns that may say what each row is for; not the one of labels.

    Raises:
        ValueError: One of them is there twice.
    """
    found = [find_column(uri, names, (name,)) for name in SPLIT_COLUMNS]
    return [name for name in found if name is not None and name != label]


LABEL_COLUMNS = ("label", "class", "target", "cls")
SPLIT_COLUMNS = ("split", "subset", "partition", "fold", "set")
