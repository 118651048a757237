"""Lists of images: tables of text or Parquet with a column of URIs and perhaps one of labels."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moco_ray.data.folders import extension_of
from moco_ray.data.formats.extensions import IMAGE_EXTENSIONS
from moco_ray.data.labels import amount, join_labels
from moco_ray.data.listed import Rows
from moco_ray.data.places import place_of
from moco_ray.data.splits import Role, has_train_and_other, role_of
from moco_ray.data.storage import Storage
from moco_ray.data.uris import file_system_of, shown

URI_COLUMNS = (
    "uri path url file filename file_name filepath file_path image_path img_path image_uri image_url image_file image img"
).split()
LABEL_COLUMNS = ("label", "class", "target", "cls")
SPLIT_COLUMNS = ("split", "subset", "partition", "fold", "set")
LIST_EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson")

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_PRECEDENCE: tuple[Role | None, ...] = ("test", "val", "other", "train", "unlabelled", None)
_CELL_FIELDS = ("path", "uri", "url", "file_name")


@dataclass(frozen=True)
class Table:
    """Columns of a list by name; cells are text in tables of text."""

    columns: Mapping[str, Sequence[Any]]
    """Equally long."""
    twice: frozenset[str] = frozenset()
    """Names that several columns have."""


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


def read_list(storage: Storage, path: str) -> Table:
    """Read a table of text: .csv with commas, semicolons, tabs or bars, .tsv, .jsonl or .ndjson.

    Blanks around names and values are dropped. A row is counted from 1, the header being row 1.

    Raises:
        ValueError: It is no such table, or not in UTF-8.
    """
    uri = storage.uri(path)
    text = _decoded(uri, storage.read_bytes(path))
    if extension_of(path) in (".jsonl", ".ndjson"):
        return _read_json_lines(uri, text)
    start = text.lstrip("\r\n")
    delimiter = "\t" if extension_of(path) == ".tsv" else _delimiter(start.splitlines()[0] if start else "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: list[list[str]] = []
    number = 1
    try:
        for row in reader:
            if row:  # a blank line has none
                if rows and len(row) != len(rows[0]):
                    raise ValueError(
                        f"{uri} is no table: row {number} has {len(row)} values and the header {len(rows[0])} "
                        f"(separated by {_DELIMITERS[delimiter]}); put values that hold one in double quotes"
                    )
                rows.append([cell.strip() for cell in row])
            number += 1
    except csv.Error as error:
        raise ValueError(
            f"{uri} is no table of values separated by {_DELIMITERS[delimiter]}: row {number}: {error}"
        ) from error
    if not rows:
        raise ValueError(f"{uri} is empty: it names no image")
    names = rows[0]
    _check_header(uri, names)
    twice = frozenset(name for name in names if names.count(name) > 1)
    return Table({name: [row[i] for row in rows[1:]] for i, name in enumerate(names)}, twice)


def _decoded(uri: str, content: bytes) -> str:
    """Text in UTF-8, or in UTF-16 with a byte order mark."""
    is_utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        found = content[error.start : error.start + 4].split(b"\n")[0].hex(" ")
        raise ValueError(
            f"{uri} is not in UTF-8: row {row} holds the bytes {found}; save it as UTF-8 (from Latin-1: iconv -f latin1 -t utf-8)"
        ) from error


def _delimiter(header: str) -> str:
    """What separates the names of the header: the first that gives a column of URIs, else the most frequent."""
    for delimiter in _DELIMITERS:
        if set(URI_COLUMNS) & {name.strip(" \"'").casefold() for name in header.split(delimiter)}:
            return delimiter
    return max(_DELIMITERS, key=header.count)


def _check_header(uri: str, names: Sequence[str]) -> None:
    """Refuse a table whose first row is already an image."""
    looks = [name for name in names if "://" in name or extension_of(name) in IMAGE_EXTENSIONS]
    if looks:
        raise ValueError(
            f"{uri} has no header: its first row already names an image ({looks[0]}); put names of the columns above it, "
            f"such as {'uri,label' if len(names) > 1 else 'uri'}"
        )


def _read_json_lines(uri: str, text: str) -> Table:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{uri}: row {number} is no JSON ({error.msg}); write one object a row") from error
        if not isinstance(row, dict):
            raise ValueError(f"{uri}: row {number} is no JSON object; write one a row, such as " + '{"uri": "a.png"}')
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return Table({name: [row.get(name) for row in rows] for name in names})


def rows_of_table(
    uri: str, table: Table, storage: Storage, folder: str, wanted_label: str | None, role: Role | None = None
) -> Rows:
    """The images that a table names, sorted by URI.

    Args:
        uri: Of the table, for messages.
        table: Its columns.
        storage: Where it is.
        folder: Of the table, which relative entries begin at.
        wanted_label: Column of labels that the user named.
        role: What all of its images are for; None: a column of splits may say.

    Raises:
        ValueError: It names no images, or in a way that cannot be used.
    """
    names = [name for name in table.columns for _ in range(2 if name in table.twice else 1)]
    column = find_column(uri, names, URI_COLUMNS)
    if column is None:
        raise ValueError(
            f"{uri} has no uri column; its columns are {', '.join(names)}. Rename the one that holds the images' places to "
            f"uri (accepted: {', '.join(URI_COLUMNS)})"
        )
    label = label_column(uri, names, wanted_label)
    split = find_column(uri, names, SPLIT_COLUMNS) if role is None else None
    uris = places_of(uri, column, table.columns[column], storage, folder)
    labels = table.columns[label] if label else [None] * len(uris)
    roles = roles_of(table.columns[split]) if split else [role] * len(uris)
    return rows_of_uris(uri, uris, labels, roles, label_name=label or "", reason=reason_without(uri, label))


def places_of(uri: str, column: str, cells: Sequence[Any], storage: Storage, folder: str) -> list[str]:
    """URIs of the images that a column names.

    Raises:
        ValueError: A cell is empty, or no place that can be read.
    """
    uris = []
    for i, value in enumerate(cells):
        text = _entry(value)
        if not text:
            raise ValueError(f"{uri} has an empty {column} in row {i}")
        try:
            uris.append(place_of(text, storage, folder))
        except ValueError as error:
            raise ValueError(f"{uri}, row {i}: {error}") from error
    return uris


def reason_without(uri: str, label: str | None) -> str:
    """Why there are no classes, where there is no column of labels."""
    if label:
        return ""
    return f"{uri} has no column of labels ({', '.join(LABEL_COLUMNS)}); name one with --data.label-column"


def rows_of_uris(
    uri: str, uris: Sequence[str], labels: Sequence[Any], roles: Sequence[Role | None], *, label_name: str, reason: str
) -> Rows:
    """Rows for images in files, sorted, each once.

    Raises:
        ValueError: There are none, or they do not lie behind one protocol.
    """
    if not uris:
        raise ValueError(f"{uri} is empty: it names no image")
    if len(kinds := {file_system_of(place) for place in uris}) > 1:
        said = ", ".join(" of ".join(kind) for kind in sorted(kinds)[:4])
        raise ValueError(f"{uri} mixes protocols or archives ({said}); use one manifest for each")
    role_by_uri, contradictions = _one_role(uris, roles)
    once, labels, notes = join_labels(uris, labels)
    order = sorted(range(len(once)), key=once.__getitem__)
    reasons: dict[Role, str] = dict.fromkeys(("train", "val", "test"), reason) if reason else {}
    return Rows(
        uris=[once[i] for i in order],
        labels=[labels[i] for i in order],
        label_name=label_name,
        roles=[role_by_uri[once[i]] for i in order],
        reasons=reasons,
        notes=notes + contradictions,
    )


def _one_role(uris: Sequence[str], roles: Sequence[Role | None]) -> tuple[dict[str, Role | None], list[str]]:
    """What each image is for, and what to say of those whose rows contradict each other: they are not trained on."""
    found: dict[str, Role | None] = {}
    several: dict[str, None] = {}
    for uri, role in zip(uris, roles, strict=True):
        known = found.setdefault(uri, role)
        if known != role:
            several[uri] = None
            found[uri] = min((known, role), key=_PRECEDENCE.index)
    if not several:
        return found, []
    first = next(iter(several))
    return found, [
        f"warning: {amount(len(several), 'image')} with different splits in different rows (first "
        f"{shown(first.rsplit('/', 1)[-1])}: {found[first]}): what is in test, val or another part is not trained on"
    ]


def roles_of(values: Sequence[Any]) -> list[Role | None]:
    """What a column of splits says; nothing where it does not tell train from others."""
    roles = [role_of(str(value)) if value is not None else None for value in values]
    if not has_train_and_other(roles):
        return [None] * len(roles)
    return [role or "other" for role in roles]


def _entry(value: Any) -> str:
    """Text of a cell that names an image."""
    if isinstance(value, dict):
        value = next((value[name] for name in _CELL_FIELDS if value.get(name)), None)
    return str(value).strip() if value is not None else ""
