"""Configurations of runs as tables: all fields of one, or those in which several differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moco_ray.config.reading import SECRET_FIELDS
from moco_ray.report.texts import plain

_OF_ONE_RUN = frozenset({"run.name", "run.storage_path", "data.relist"})


def fields_of(values: Mapping[str, Any]) -> dict[str, str]:
    """All fields of a configuration in words, by their paths; none that may hold credentials.

    Args:
        values: Of a config.json, of any version.
    """
    fields: dict[str, str] = {}
    for group, members in values.items():
        for name, value in members.items() if isinstance(members, Mapping) else [("", members)]:
            path = f"{group}.{name}" if name else group
            if path in SECRET_FIELDS or name == "storage_options":
                fields[path] = "none" if value is None else "…"
            else:
                fields[path] = plain(value)
    return fields


def differences(configurations: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The fields in which configurations differ, with the value of each; a dash where one has no such field.

    Names and places of the runs themselves differ always, and are left out.

    Args:
        configurations: Values of their config.json.
    """
    fields = [fields_of(values) for values in configurations]
    rows = [(path, [one.get(path, "–") for one in fields]) for path in _in_order(fields) if path not in _OF_ONE_RUN]
    return [(path, values) for path, values in rows if len(set(values)) > 1]


def _in_order(fields: Iterable[Mapping[str, str]]) -> list[str]:
    """All paths, as they follow each other where they are first found."""
    return list(dict.fromkeys(path for one in fields for path in one))
