"""Lists of images: tables of text or Parquet with a column of URIs and perhaps one of labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from moco_ray.data.labels import amount, join_labels, quoted
from moco_ray.data.listed import Rows
from moco_ray.data.overlap import check_left
from moco_ray.data.places import place_of
from moco_ray.data.split_names import Role, has_train_and_other, role_by_word
from moco_ray.data.table_columns import LABEL_COLUMNS, label_column, place_column, split_columns
from moco_ray.data.targets import read_targets
from moco_ray.data.text_tables import URI_COLUMNS, Table
from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import file_system_of, shown

_PRECEDENCE: tuple[Role | None, ...] = ("test", "val", "other", "train", "unlabelled", None)
_CELL_FIELDS = ("path", "uri", "url", "file_name")
_LONGEST_PLACE = 4096  # the longest path of a system; URLs that hold a signature are shorter, too
_ENCODED = re.compile(r"[A-Za-z0-9+/\s]{200,}={0,2}")  # bytes as text: no place is so long without a dot or the like
_SHOWN = 60


def rows_of_table(
    uri: str,
    table: Table,
    storage: Storage,
    folder: str,
    wanted_label: str | None,
    role: Role | None = None,
    *,
    wanted_place: str | None = None,
    targets: Sequence[str] | None = None,
) -> Rows:
    """The images that a table names, sorted by URI.

    Args:
        uri: Of the table, for messages.
        table: Its columns.
        storage: Where it is.
        folder: Of the table, which relative entries begin at.
        wanted_label: Column of labels that the user named.
        role: What all of its images are for; None: a column of splits may say.
        wanted_place: Column of the images' places that the user named.
        targets: Columns of several labels at once, which then take the place of the classes.

    Raises:
        ValueError: It names no images, or in a way that cannot be used.
    """
    names = table.names()
    column = place_column(uri, names, wanted_place, table.first_cells)
    if column is None:
        raise ValueError(
            f"{uri} has no uri column; its columns are {', '.join(names)}. Rename the one that holds the images' places to "
            f"uri (accepted: {', '.join(URI_COLUMNS)}), or name it with --data.image-column"
        )
    label = label_column(uri, names, wanted_label)
    splits = split_columns(uri, names, label) if role is None else []
    uris = places_of(uri, column, table.columns[column], storage, folder, table.lines)
    labels: Sequence[Any] = table.columns[label] if label else [None] * len(uris)
    if targets is not None:
        labels = read_targets(uri, table, targets)
    roles, unclear = roles_of({name: table.columns[name] for name in splits}, len(uris))
    rows = rows_of_uris(
        uri,
        uris,
        labels,
        roles if splits else [role] * len(uris),
        label_name=label or "",
        reason=reason_without(uri, label),
    )
    rows.notes.extend(unclear)
    return rows if targets is None else replace(rows, target_names=tuple(targets))


def places_of(
    uri: str, column: str, cells: Sequence[Any], storage: Storage, folder: str, lines: Sequence[int] | None = None
) -> list[str]:
    """URIs of the images that a column names.

    Args:
        uri: Of the table, for messages.
        column: Its name.
        cells: What it holds.
        storage: Where the table is.
        folder: Of the table, which relative entries begin at.
        lines: The line of text of each cell; None: rows are counted from 0.

    Raises:
        ValueError: A cell is empty, or no place that can be read.
    """
    uris = []
    for i, value in enumerate(cells):
        try:
            text = _entry(value)
            if text:
                uris.append(place_of(text, storage, folder))
                continue
        except ValueError as error:
            raise ValueError(f"{uri}, {_where(i, lines)}: {error}") from error
        raise ValueError(f"{uri} has an empty {column} in {_where(i, lines)}")
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
    role_by_uri, contradictions = _one_role(uri, uris, roles)
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


def _one_role(
    table: str, uris: Sequence[str], roles: Sequence[Role | None]
) -> tuple[dict[str, Role | None], list[str]]:
    """What each image is for, and what to say of those whose rows contradict each other: they are not trained on.

    Raises:
        ValueError: Next to nothing is left to train on.
    """
    found: dict[str, Role | None] = {}
    several: dict[str, None] = {}
    for uri, role in zip(uris, roles, strict=True):
        known = found.setdefault(uri, role)
        if known != role:
            several[uri] = None
            found[uri] = min((known, role), key=_PRECEDENCE.index)
    if not several:
        return found, []
    num_left = sum(role == "train" for role in found.values())
    num_before = len({uri for uri, role in zip(uris, roles, strict=True) if role == "train"})
    check_left(num_left, num_before, f"the train rows of {table}", "rows of test, val or other parts")
    first = next(iter(several))
    return found, [
        f"warning: {amount(len(several), 'image')} with different splits in different rows (first "
        f"{shown(first.rsplit('/', 1)[-1])}: {found[first]}): what is in test, val or another part is not trained on"
    ]


def roles_of(columns: Mapping[str, Sequence[Any]], num_rows: int) -> tuple[list[Role | None], list[str]]:
    """What the first column of splits that tells train from others says, and else what to say of each that does not."""
    notes = []
    for name, values in columns.items():
        texts = [_split_text(value) for value in values]
        roles = [role_by_word(text) for text in texts]
        if has_train_and_other(roles):
            return [role or "other" for role in roles], []
        said = {role for role, text in zip(roles, texts, strict=True) if text}
        if None in said or len(said) > 1:  # a list of one part alone is as it should be
            notes.append(
                f"warning: column {name!r} ({quoted(sorted(set(filter(None, texts))))}) does not tell train from test: all "
                "rows are trained on; write train, val or test there"
            )
    return [None] * num_rows, notes


def _split_text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else "" if value is None else str(value).strip()


def _where(i: int, lines: Sequence[int] | None) -> str:
    return f"row {i}" if lines is None else f"line {lines[i]}"


def _entry(value: Any) -> str:
    """Text of a cell that names an image.

    Raises:
        ValueError: It holds several values, or an image itself.
    """
    if isinstance(value, dict):
        value = next((value[name] for name in _CELL_FIELDS if value.get(name)), None)
    if isinstance(value, bytes):
        value = _decoded(value)
    if isinstance(value, list | tuple | dict):
        raise ValueError(f"{_shortened(str(value))} is a list or object, not the place of one image; write one a row")
    text = str(value).strip() if value is not None else ""
    if len(text) > _LONGEST_PLACE or (len(text) >= 200 and _ENCODED.fullmatch(text)):
        raise ValueError(
            f"{_shortened(text)} is text of {len(text):,} characters, not the place of an image; if it holds an image, write "
            "image files, or Parquet files of image bytes"
        )
    return text


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"holds bytes that are no text ({value[:8].hex(' ')}), not the place of an image") from None


def _shortened(text: str) -> str:
    text = shown(text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
