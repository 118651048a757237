"""Lists of the name metadata that lie among the images they describe, as Hugging Face's imagefolder has them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from moco_ray.config.data import DataConfig
from moco_ray.data.folders import File, extension_of
from moco_ray.data.split_names import Role, has_train_and_other
from moco_ray.data.table_columns import LABEL_COLUMNS, label_column, place_column, split_columns
from moco_ray.data.tables import rows_of_table
from moco_ray.data.text_tables import LIST_EXTENSIONS, read_list
from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import shown

_METADATA = "metadata"


@dataclass(kw_only=True)
class Metadata:
    """What lists named metadata that lie among the images say of them."""

    labels: dict[str, Any] = field(default_factory=dict)
    """By URI."""
    column: str = ""
    """Where the labels come from; "" without any."""
    roles: dict[str, Role | None] = field(default_factory=dict)
    """By URI, of lists that tell train from others."""
    used: list[str] = field(default_factory=list)
    """The lists, as they are shown."""
    files: list[File] = field(default_factory=list)
    """The lists that are used or spoken of."""
    unused: list[str] = field(default_factory=list)
    """Why others are not used."""
    unclear: list[str] = field(default_factory=list)
    """What is said of columns that do not tell train from others."""


def read_metadata(
    config: DataConfig, storage: Storage, others: Sequence[File], folders: Iterable[str], there: Collection[str]
) -> Metadata:
    """Labels and splits from lists named metadata that lie among the images.

    Args:
        config: Names a column, perhaps.
        storage: Where they are.
        others: Files that are no images.
        folders: Those of the images, as they are shown; a list in another one describes something else.
        there: URIs of the images.

    Raises:
        ValueError: One cannot be read.
    """
    root = len(storage.root.rstrip("/")) + 1
    described = {""}.union(*(_with_parents(folder) for folder in folders))
    result = Metadata()
    for file in others:
        folder, _, name = file.path.rpartition("/")
        if name.rpartition(".")[0].lower() != _METADATA or extension_of(name) not in LIST_EXTENSIONS:
            continue
        if shown(folder[root:]) not in described:
            continue
        try:
            why = _add_list(result, config, storage, file, there)
        except ValueError as error:
            raise ValueError(
                f"{error}. It is read because a list of the name {_METADATA} among images gives their labels; mend it, or "
                "rename or move it to do without: folders are the classes then"
            ) from error
        result.files.append(file)
        if why:
            result.unused.append(f"{shown(file.path[root:])} {why}")
        else:
            result.used.append(file.path[root:])
    return result


def _add_list(result: Metadata, config: DataConfig, storage: Storage, file: File, there: Collection[str]) -> str:
    """Add what a list says; or tell why it is not used."""
    table, uri = read_list(storage, file.path), storage.uri(file.path)
    names = list(table.columns)
    if not place_column(uri, table.names(), config.image_column, table.first_cells):
        return f"is not used: it has no uri column ({', '.join(names)})"
    label = label_column(uri, names, config.label_column)
    splits = split_columns(uri, names, label)
    without = (
        f"gives no labels: it has no column of labels ({', '.join(LABEL_COLUMNS)}); its columns are {', '.join(names)}; name "
        "one with --data.label-column"
    )
    if label is None and not splits:
        return without
    folder = file.path.rpartition("/")[0]
    rows = rows_of_table(uri, table, storage, folder, config.label_column, wanted_place=config.image_column)
    if not any(place in there for place in rows.uris):
        return "is not used: it names none of the pictures there"
    roles = dict(zip(rows.uris, rows.roles or [], strict=True))
    result.unclear += [note for note in rows.notes if note.startswith("warning: column")]
    if has_train_and_other(roles.values()):
        result.roles |= roles
    if label is None:
        result.unused += [f"{shown(uri.rsplit('/', 1)[-1])} {without}"]
    else:
        result.labels |= dict(zip(rows.uris, rows.labels, strict=True))
        result.column = label
    return ""


def _with_parents(folder: str) -> set[str]:
    parts = folder.split("/")
    return {"/".join(parts[:i]) for i in range(1, len(parts) + 1)}
