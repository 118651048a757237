"""The fields of a configuration by their paths, such as optim.lr."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import replace
from typing import Any, Literal

from moco_ray.config import Config
from moco_ray.config.config import GROUPS, UNUSED

_VARIED_GROUPS = ("model", "method", "optim", "views")
_WHY_NOT = {
    "data": "all trials of a sweep see the same images",
    "eval": "trials that are measured differently cannot be compared",
    "run": "it decides where and how a run runs, not what it learns",
}


def paths(config: Config) -> list[str]:
    """All fields that a sweep may vary: those that this configuration really has."""
    return [
        path
        for group in _VARIED_GROUPS
        if group in GROUPS[config.task]
        for item in dataclasses.fields(getattr(config, group))
        if (path := f"{group}.{item.name}") not in UNUSED[config.task]
    ]


def check_path(config: Config, text: str) -> str:
    """The path that a user means by it, in its one spelling.

    Raises:
        ValueError: There is no such field, or it is none to search.
    """
    path = text.strip().removeprefix("--").replace("-", "_")
    if path in paths(config):
        return path
    group = path.split(".", 1)[0]
    if group in _WHY_NOT and "." in path:
        raise ValueError(f"--space {text}: {_WHY_NOT[group]}; vary fields of {', '.join(_VARIED_GROUPS)}")
    close = difflib.get_close_matches(path, paths(config), n=2, cutoff=0.5)
    same_name = [known for known in paths(config) if known.split(".")[1] == path.split(".")[-1]]
    meant = same_name or close
    hint = f"did you mean {' or '.join(meant)}?" if meant else f"there are {', '.join(paths(config))}"
    raise ValueError(f"--space {text}: the preset {config.preset} has no such field; {hint}")


def get(config: Config, path: str) -> Any:
    """The value of a field."""
    group, name = path.split(".")
    return getattr(getattr(config, group), name)


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """The configuration with other values of some fields.

    Raises:
        ValueError: A value is impossible.
    """
    groups: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        group, name = path.split(".")
        groups.setdefault(group, {})[name] = value
    changed = {group: replace(getattr(config, group), **items) for group, items in groups.items()}
    return replace(config, **changed)


def hints(config: Config, path: str) -> tuple[Any, ...]:
    """The types that a field may have."""
    group, name = path.split(".")
    hint = typing.get_type_hints(type(getattr(config, group)))[name]
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else (hint,)


def is_number(config: Config, path: str) -> bool:
    """Whether a field holds a number."""
    return bool({int, float} & set(hints(config, path)))


def is_whole(config: Config, path: str) -> bool:
    """Whether a field holds a whole number."""
    return int in hints(config, path) and float not in hints(config, path)


def from_text(config: Config, path: str, text: str) -> Any:
    """A value of a field, as a user writes it.

    Raises:
        ValueError: The field cannot have it.
    """
    allowed: list[str] = []
    for hint in hints(config, path):
        if typing.get_origin(hint) is Literal:
            allowed += map(str, typing.get_args(hint))
            if text in map(str, typing.get_args(hint)):
                return next(value for value in typing.get_args(hint) if str(value) == text)
        elif hint is type(None):
            allowed.append("none")
            if text.lower() == "none":
                return None
        elif hint is bool:
            allowed.append("true or false")
            if text.lower() in ("true", "false"):
                return text.lower() == "true"
        elif hint in (int, float):
            allowed.append("a whole number" if hint is int else "a number")
            try:
                return hint(text)
            except ValueError:
                pass
        elif hint is str:
            return text
    if not allowed:
        raise ValueError(f"--space {path}: a field of several values cannot be searched; vary fields of one value")
    raise ValueError(f"--space {path}: {text!r} is not possible; use {', '.join(allowed)}")
