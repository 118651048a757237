"""From what was found to what is trained on and what is classified, and what is said of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moco_ray.data.labels import NoClasses, amount, count_words, encode_labels, encode_names, encode_part, quoted
from moco_ray.data.manifest import Manifest, make_manifest
from moco_ray.data.overlap import check_left, is_shared
from moco_ray.data.split_names import Role, has_train_and_other
from moco_ray.storage.uris import shown

_ROLES: tuple[Role, ...] = ("train", "unlabelled", "val", "test", "other")

_Encoded = tuple[NDArray[np.int64], tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Images as they were found, in their final order; all lists have one entry for each."""

    uris: list[str]
    """Files, or Parquet files whose rows are images."""
    labels: list[Any]
    """As they were found; None without one."""
    label_name: str = ""
    """The column that they come from; "" for names of folders."""
    target_names: tuple[str, ...] = ()
    """Columns of several labels at once: then each of `labels` is a tuple of one number for each, NaN where unknown."""
    roles: list[Role | None] | None = None
    """What each is for; None: all are trained on."""
    names: dict[Role, list[str]] = field(default_factory=dict)
    """Which folders, files or values made a role."""
    reasons: dict[Role, str] = field(default_factory=dict)
    """Why there are no labels, by role."""
    num_bytes: list[int] | None = None
    """Sizes of the files."""
    groups: list[int] | None = None
    """Row groups of Parquet files."""
    rows_in_group: list[int] | None = None
    """Rows in them."""
    image_column: str | None = None
    """Column of image bytes."""
    window_rows: int | None = None
    """Rows of Parquet files that are shuffled together."""
    notes: list[str] = field(default_factory=list)
    """What a user should know."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The images of a URI."""

    train: Manifest
    """Those to train on."""
    test: Manifest | None
    """Those to classify, which training does not see; None without any that have labels."""
    words: str
    """Classes and counts, or why there are no classes."""
    notes: list[str]
    """What else a user should know: splits, what is left out."""


def make_listed(rows: Rows, *, is_label_named: bool, chooses_test: bool) -> Listed:
    """Decide what is trained on and what is classified.

    Where there is something to train on and something else, images that are neither are left out; val is classified if
    it has labels of two classes, else test. Without such roles everything is trained on.

    Args:
        rows: The images.
        is_label_named: Whether the user named the column of labels: then it must hold classes.
        chooses_test: Whether to look for images to classify; else none are, and none are trained on that could be.

    An image of the val or test part is never trained on, also where the train part has it, too.

    Raises:
        ValueError: There is nothing or little to train on, or the named column holds no classes.
    """
    roles = rows.roles or [None] * len(rows.uris)
    encoded = _encode_all(rows)
    counts = Counter(roles)
    if not has_train_and_other(counts):
        every = np.arange(len(rows.uris))
        train, reason = _part(rows, encoded, every, "train", is_label_named)
        words = _class_words(train, reason)
        return Listed(train=train, test=None, words=words, notes=rows.notes + _said_without_train(rows, counts))
    roles, shared = _apart(rows, roles)
    counts = Counter(roles)
    train, reason = _part(rows, encoded, _rows_of(roles, _ROLES[:2]), "train", is_label_named)
    used: Role | None = None
    test = None
    without = []
    for role in _ROLES[2:4]:
        if counts[role] and chooses_test and used is None:
            part, why = _part(rows, encoded, _rows_of(roles, (role,)), role, is_label_named)
            if len(part.classes) > 1 or part.target_names:
                used, test = role, part
            else:
                without.append(f"{_named(rows, role)} cannot be classified: {why or _class_words(part, why)}")
    said = f"trains on {_amounts(rows, counts, _ROLES[:2])}"
    said += f"; evaluates on {_amounts(rows, counts, (used,))}" if used else ""
    rest = [role for role in _ROLES[2:] if counts[role] and role != used]
    said += f"; left out: {_amounts(rows, counts, rest)}" if rest else ""
    return Listed(
        train=train, test=test, words=_class_words(train, reason), notes=[*rows.notes, *shared, said, *without]
    )


def _apart(rows: Rows, roles: Sequence[Role | None]) -> tuple[list[Role | None], list[str]]:
    """Roles without those of training images that are in a val or test part, too; and what to say of these.

    Raises:
        ValueError: Next to nothing is left to train on.
    """
    train, test = (_rows_of(roles, wanted) for wanted in (_ROLES[:2], _ROLES[2:4]))
    result = list(roles)
    if rows.groups is not None:  # a row of a Parquet file is in one part
        return result, []
    shared = train[is_shared([rows.uris[i] for i in train], [rows.uris[i] for i in test])]
    if not len(shared):
        return result, []
    named, others = (
        ", ".join(_named(rows, role) for role in wanted if role in roles) for wanted in (_ROLES[:2], _ROLES[2:4])
    )
    check_left(len(train) - len(shared), len(train), named, others)
    for i in shared:
        result[i] = None
    first = rows.uris[shared[0]].rsplit("/", 1)[-1]
    return result, [
        f"warning: {amount(len(shared), 'image')} of {named} {'is' if len(shared) == 1 else 'are'} in {others}, too "
        f"(first {shown(first)}): not trained on"
    ]


def merge_rows(parts: Sequence[Rows]) -> Rows:
    """Images of several lists, sorted by URI, each once for one purpose."""
    found: dict[tuple[str, Role | None], Any] = {}
    for part in parts:
        for uri, label, role in zip(part.uris, part.labels, part.roles or [None] * len(part.uris), strict=True):
            found.setdefault((uri, role), label)
    keys = sorted(found, key=lambda key: key[0])
    return Rows(
        uris=[uri for uri, _ in keys],
        labels=[found[key] for key in keys],
        label_name=next((part.label_name for part in parts if part.label_name), ""),
        target_names=next((part.target_names for part in parts if part.target_names), ()),
        roles=[role for _, role in keys],
        reasons={role: why for part in parts for role, why in part.reasons.items() if role in (part.roles or ())},
        notes=[note for part in parts for note in part.notes],
    )


def _rows_of(roles: Sequence[Role | None], wanted: tuple[Role, ...]) -> NDArray[np.int64]:
    return np.flatnonzero([role in wanted for role in roles]).astype(np.int64)


def _encode_all(rows: Rows) -> _Encoded | None:
    """Classes of a whole column, so that those of its parts have the same names; None where some value is no class."""
    try:
        return encode_labels(_values(rows, np.arange(len(rows.labels)))) if rows.label_name else None
    except NoClasses:
        return None


def _encode(rows: Rows, encoded: _Encoded | None, chosen: NDArray[np.int64]) -> _Encoded:
    if encoded is not None:
        return encode_part(*encoded, chosen)
    return (encode_labels if rows.label_name else encode_names)(_values(rows, chosen))


def _values(rows: Rows, chosen: NDArray[np.int64]) -> list[Any]:
    return [None if rows.roles and rows.roles[i] == "unlabelled" else rows.labels[i] for i in chosen]


def _part(
    rows: Rows, encoded: _Encoded | None, chosen: NDArray[np.int64], role: Role, is_label_named: bool
) -> tuple[Manifest, str]:
    """The manifest of some rows, and why it has no classes, if that is known."""
    reason = rows.reasons.get(role, "")
    targets = [rows.labels[i] or (math.nan,) * len(rows.target_names) for i in chosen] if rows.target_names else None
    try:
        ids, classes = _encode(rows, encoded, chosen) if targets is None else (np.full(len(chosen), -1), ())
    except NoClasses as error:
        if is_label_named:
            raise ValueError(
                f"data.label-column {rows.label_name!r} {error}; name a column with one class a picture"
            ) from error
        reason = f"column {rows.label_name!r} {error}; name another with --data.label-column"
        ids, classes = np.full(len(chosen), -1), ()

    def column(values: list[int] | None) -> NDArray[np.int64] | None:
        return None if values is None else np.array(values, dtype=np.int64)[chosen]

    sizes, groups, rows_in_group = column(rows.num_bytes), column(rows.groups), column(rows.rows_in_group)
    manifest = make_manifest(
        uris=pa.array([rows.uris[i] for i in chosen], pa.string()),
        labels=ids,
        classes=classes,
        num_bytes=sizes,
        row_groups=groups,
        rows_in_group=rows_in_group,
        image_column=rows.image_column,
        window_rows=rows.window_rows,
        targets=targets,
        target_names=rows.target_names,
    )
    return manifest, reason


def _class_words(manifest: Manifest, reason: str) -> str:
    if manifest.target_names:
        return f"{amount(len(manifest.target_names), 'label')} that an image may have: {quoted(manifest.target_names)}"
    if manifest.classes:
        return count_words(manifest.classes, manifest.labels)
    return f"no classes: {reason}" if reason else "no classes: no image has a label"


def _said_without_train(rows: Rows, counts: Counter[Role | None]) -> list[str]:
    present = [role for role in _ROLES if counts[role] and rows.names.get(role)]
    if set(present) <= {"train"}:
        return []
    return [f"trains on all of {_amounts(rows, counts, present)}: there is not both a train and a val or test part"]


def _amounts(rows: Rows, counts: Counter[Role | None], roles: Sequence[Role]) -> str:
    return ", ".join(f"{_named(rows, role)} ({amount(counts[role], 'image')})" for role in roles if counts[role])


def _named(rows: Rows, role: Role) -> str:
    names = rows.names.get(role, [role])
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
