"""The fields of a configuration: their types, and values as people and JSON write them."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import operator
import re
import textwrap
import types
import typing
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


_KNOWN: dict[type, dict[str, Any]] = {}


def docs_of(cls: type) -> dict[str, str]:
    """What the text below each field of a dataclass says, in one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def types_of(cls: type) -> dict[str, Any]:
    """The type of each field of a dataclass; found once, since that takes a while."""
    if cls not in _KNOWN:
        _KNOWN[cls] = _types_of(cls)
    return _KNOWN[cls]


def _types_of(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {name: hint for name, hint in hints.items() if typing.get_origin(hint) is not typing.ClassVar}


def members(hint: Any) -> tuple[Any, ...]:
    """The types that a value may have."""
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else (hint,)


def is_switch(hint: Any) -> bool:
    """Whether a field is true or false."""
    return bool in members(hint)


def tuple_length(hint: Any) -> int | None:
    """How many values a field holds: None for one, 0 for any number."""
    for member in members(hint):
        if typing.get_origin(member) is tuple:
            items = typing.get_args(member)
            return 0 if items[-1] is Ellipsis else len(items)
    return None


def describe(hint: Any, none: str = "none") -> str:
    """What a value may be, in words.

    Args:
        hint: The type.
        none: How "no value" is written.
    """
    words = []
    for member in members(hint):
        if typing.get_origin(member) is Literal:
            words.append(_or([str(value) for value in typing.get_args(member)]))
        elif typing.get_origin(member) is tuple:
            number = tuple_length(member) or "one or more"
            if typing.get_origin(item := typing.get_args(member)[0]) is Literal:
                words.append(f"{number} of {', '.join(typing.get_args(item))}")
                continue
            what = {int: "whole numbers", float: "numbers"}.get(typing.get_args(member)[0], "texts")
            words.append(f"{number} {what}")
        else:
            words.append(
                {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}.get(member, none)
            )
    return _or(words)


def _or(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def from_text(hint: Any, texts: Sequence[str]) -> Any:
    """A value of a field, as a person writes it: one text, or one for each item of a tuple.

    Raises:
        ValueError: It cannot have that value; the message is what it can be.
    """
    length = tuple_length(hint)
    if length is not None:
        if length == 0 and list(texts) == ["None"] and types.NoneType in members(hint):
            return None
        item_hint = next(typing.get_args(m)[0] for m in members(hint) if typing.get_origin(m) is tuple)
        items = split_names(texts) if item_hint is str else split_list(texts)
        if not items or (length and len(items) != length):
            raise ValueError(describe(hint))
        return tuple(from_text(item_hint, [item]) for item in items)
    for member in sorted(members(hint), key=lambda member: member is not types.NoneType):
        try:
            return _one_from_text(member, texts[0], is_text=str in members(hint))
        except (ValueError, OverflowError):
            continue
    raise ValueError(describe(hint))


def split_list(texts: Sequence[str]) -> list[str]:
    """Items that were written with spaces, commas or brackets."""
    return [item for item in re.split(r"[\s,]+", " ".join(texts).strip("()[] ")) if item]


def split_names(texts: Sequence[str]) -> list[str]:
    """Names that were written as several texts, or with commas: blanks may be part of one."""
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def _one_from_text(member: Any, text: str, *, is_text: bool) -> Any:
    if member is types.NoneType:
        if text == "None" or (text.lower() in ("none", "null") and not is_text):
            return None
        raise ValueError
    if member is bool:
        if text.lower() not in _WORDS:
            raise ValueError
        return _WORDS[text.lower()]
    if typing.get_origin(member) is Literal:
        if text not in typing.get_args(member):
            raise ValueError
        return text
    return member(text)


def from_json_value(hint: Any, value: Any, name: str, none: str = "null") -> Any:
    """A value of a field, as JSON holds it.

    Args:
        hint: The type.
        value: What is there.
        name: Of the field, for the message.
        none: How "no value" is written.

    Raises:
        ValueError: It is of another type.
    """
    for member in members(hint):
        if typing.get_origin(member) is tuple and isinstance(value, list):
            length, item_hint = tuple_length(member), typing.get_args(member)[0]
            if not length or len(value) == length:
                return tuple(from_json_value(item_hint, item, f"{name}[{i}]", none) for i, item in enumerate(value))
        elif typing.get_origin(member) is Literal:
            if isinstance(value, str) and value in typing.get_args(member):
                return value
        elif _is(member, value):
            return int(value) if member is int else value
    raise ValueError(
        f"{name} is {shorten(json.dumps(value) if none == 'null' else _described(value))}; use {describe(hint, none)}"
    )


def from_python(hint: Any, value: Any, name: str) -> Any:
    """A value of a field, as a program gives it: a list is a tuple, and a number of numpy is a number.

    Raises:
        ValueError: It is of another type.
    """
    given = _plain(value)
    items = [_plain(item) for item in given] if isinstance(given, list | tuple) else given
    taken = from_json_value(hint, items, name, "None")
    is_same = isinstance(value, tuple) and all(map(operator.is_, value, taken))
    return value if is_same else taken


def _plain(value: Any) -> Any:
    """What a number or an array of numpy holds; numpy itself is slow to import."""
    return value.tolist() if type(value).__module__ == "numpy" and hasattr(value, "tolist") else value


def _described(value: Any) -> str:
    is_plain = isinstance(value, str | int | float | tuple | list | None)
    return repr(value) if is_plain else f"{value!r} of type {type(value).__name__}"


def shorten(text: str, most: int = 60) -> str:
    """A text that fits into a message."""
    return text if len(text) <= most else text[: most - 3] + "..."


def _is(member: Any, value: Any) -> bool:
    if isinstance(value, bool) or member is bool:
        return isinstance(value, bool) and member is bool
    if member is int:
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if member is float:
        return isinstance(value, int | float)
    return isinstance(member, type) and isinstance(value, member)


def with_values(config: Any, values: dict[str, Any]) -> Any:
    """A configuration with other values of some fields, by their paths.

    Raises:
        ValueError: A value is impossible.
    """
    changed: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        group, _, name = path.rpartition(".")
        (groups.setdefault(group, {}) if group else changed)[name] = value
    changed |= {group: replace(getattr(config, group), **items) for group, items in groups.items()}
    return replace(config, **changed)
