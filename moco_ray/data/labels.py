"""Labels to class numbers: what is a class, what is none, and what people are told of it."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco_ray.storage.uris import shown

_MISSING = frozenset({"", "\\n", "null", "none", "nan", "na", "n/a", "#n/a", "<na>", "nil"})
_INTEGER = re.compile(r"[+-]?[0-9]+")
_INTEGRAL = re.compile(r"[+-]?[0-9]+\.0+")
_LISTED_CLASSES = 8
_NAMED_ENDS = 3
_LONGEST_NAME = 40


class NoClasses(ValueError):
    """The values cannot be classes; the message completes "the column ..."."""


def encode_labels(values: Sequence[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number the classes of some labels, sorted by name; integers sort as numbers, also where they are text.

    No class have: None, NaN, blanks, text such as "null", "None", "NaN", "NA" and "n/a" in any case, the mark of databases
    for a missing value (a backslash and N), an empty list, and -1 where no other label is negative (but -1 and 1 alone are
    two classes, also as -1 and +1; -1 alone is none). Text is a class as it is written: 001, 01 and 1 are three; so are
    truth values beside numbers: true and 1 are two. Numbers with a fraction of zero are integers, as text too where all of
    it is of this form (1.0, 2.0).

    Args:
        values: One label an image: None, text, numbers, bytes of text, or lists of at most one of these.

    Returns:
        (n,) class numbers, -1 without one; and the names of the classes.

    Raises:
        NoClasses: A value is no single class.
    """
    plain = [_plain(value) for value in values]
    texts = {value for value in plain if isinstance(value, str)}
    numbers = _numbers(plain)
    if texts and not numbers and all(_INTEGRAL.fullmatch(text) for text in texts):
        plain = [int(value.split(".")[0]) if isinstance(value, str) else value for value in plain]
        texts, numbers = set(), _numbers(plain)
    if not texts:
        return _number(plain, sorted(numbers.values()))
    if not numbers and all(_INTEGER.fullmatch(text) for text in texts):
        return _number(plain, sorted(texts, key=lambda text: (int(text), text)))
    return _number(plain, sorted({*texts, *numbers}))


def encode_part(
    ids: NDArray[np.int64], classes: Sequence[str], chosen: NDArray[np.int64]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number the classes that some rows have, in the order and by the names that they have among all rows."""
    present = np.unique(ids[chosen][ids[chosen] >= 0])
    number = np.full(len(classes) + 1, -1, dtype=np.int64)  # the last one is that of no label
    number[present] = np.arange(len(present))
    return number[ids[chosen]], tuple(classes[i] for i in present)


def encode_names(names: Sequence[str | None]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number the classes of folders, sorted as text: whoever made a folder of the name none meant a class."""
    classes = tuple(sorted({name for name in names if name is not None}))
    ids = {name: i for i, name in enumerate(classes)}
    return np.array([-1 if name is None else ids[name] for name in names], dtype=np.int64), classes


def _numbers(plain: Sequence[Any]) -> dict[str, int]:
    """Integers and truth values by name: as keys themselves, True and 1 would be one."""
    return {str(value): value for value in plain if isinstance(value, int)}


def _number(plain: Sequence[Any], ordered: Sequence[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    names = [str(value) for value in ordered]
    negative = [name for name in names if name.startswith("-") and _INTEGER.fullmatch(name)]
    others = set(names) - {"-1"}
    if negative == ["-1"] and not (others and others <= {"1", "+1"}):
        names.remove("-1")
    classes = tuple(dict.fromkeys(names))
    ids = {name: i for i, name in enumerate(classes)}
    return np.array([-1 if value is None else ids.get(str(value), -1) for value in plain], dtype=np.int64), classes


def _plain(value: Any) -> str | int | None:
    """Text, an integer or a truth value; None for no label."""
    if _is_missing(value):
        return None
    match value:
        case str() | bool() | int():
            return value
        case float() | Decimal():
            return _whole(value)
        case bytes():
            try:
                return _plain(value.decode())
            except UnicodeDecodeError:
                raise NoClasses(f"holds bytes that are no text ({value[:8].hex(' ')})") from None
        case list() | tuple():
            if len(value) > 1:
                raise NoClasses(f"holds several labels for one picture, such as {_short(str(value))}")
            return _plain(value[0]) if value else None
        case dict():
            raise NoClasses(f"holds nested fields ({', '.join(map(str, value))}), which are no class")
        case datetime.date() | datetime.time() | datetime.timedelta():
            raise NoClasses(f"holds times, such as {value}, which are no class")
        case _:
            raise NoClasses(f"holds values of the type {type(value).__name__}, which are no class")


def _whole(value: float | Decimal) -> int:
    if math.isinf(value) or value != int(value):
        raise NoClasses(f"holds {value}, a number that is no class")
    return int(value)


def count_words(classes: Sequence[str], labels: NDArray[np.int64]) -> str:
    """The classes and how many images each has, in one line; of many the largest and the smallest.

    Args:
        classes: Their names.
        labels: (n,) class numbers, -1 without one.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    named = [f"{_short(name)} ({count:,})" for name, count in zip(classes, counts, strict=True)]
    without = int((labels < 0).sum())
    unlabelled = f"; {without:,} without a label" if without else ""
    kind = "class" if len(classes) == 1 else "classes"
    if len(classes) > 1 and counts.max() == 1:
        return f"{len(classes):,} classes of one image each ({quoted(classes)}){unlabelled}: kNN cannot find another of a class"
    if len(classes) <= _LISTED_CLASSES:
        return f"{len(classes)} {kind}: {', '.join(named)}{unlabelled}"
    order = np.argsort(-counts, kind="stable")
    largest, smallest = ([named[i] for i in part] for part in (order[:_NAMED_ENDS], order[-_NAMED_ENDS:]))
    return f"{len(classes):,} {kind}: {', '.join(largest)} … {', '.join(smallest)}{unlabelled}"


def join_labels(uris: Sequence[str], labels: Sequence[Any]) -> tuple[list[str], list[Any], list[str]]:
    """One row for each image, where a list names some again.

    Args:
        uris: Images, some of them several times.
        labels: A label for each.

    Returns:
        Images once each, in the order of their first row; their labels, none where rows contradict each other; and what to
        say of it.
    """
    if len(set(uris)) == len(uris):
        return list(uris), list(labels), []
    found: dict[str, list[Any]] = {}
    for uri, label in zip(uris, labels, strict=True):
        known = found.setdefault(uri, [])
        if not _is_missing(label) and label not in known:
            known.append(label)
    notes = [f"{amount(len(uris) - len(found), 'row')} with an image that is named before: each image counts once"]
    if several := sum(len(known) > 1 for known in found.values()):
        notes.append(f"{amount(several, 'image')} with different labels in different rows: no label")
    return list(found), [known[0] if len(known) == 1 else None for known in found.values()], notes


def _is_missing(label: Any) -> bool:
    is_nan = isinstance(label, float | Decimal) and math.isnan(label)
    return label is None or is_nan or (isinstance(label, str) and label.strip().casefold() in _MISSING)


def amount(count: int, noun: str) -> str:
    """A number of things: "1 image", "1,200 images"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def quoted(names: Iterable[str]) -> str:
    """A few names, and whether there are more."""
    listed = list(names)
    return ", ".join(map(_short, listed[:_NAMED_ENDS])) + (", …" if len(listed) > _NAMED_ENDS else "")


def counted(counts: Mapping[str, int], most: int = _LISTED_CLASSES) -> str:
    """Names with their counts, the most frequent first: "12 .heic, 3 .txt"."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = ", ".join(f"{count:,} {shown(name)}" for name, count in ordered[:most])
    return words + (f" and {len(ordered) - most} other kinds" if len(ordered) > most else "")


def _short(name: str) -> str:
    name = shown(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
