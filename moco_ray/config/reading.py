"""A configuration as JSON, as a run's config.json holds it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from moco_ray.config.config import GROUPS, Config
from moco_ray.config.fields import from_json_value, shorten, types_of
from moco_ray.config.methods import AnyMethod, method_class, method_names
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.resembling import most_like

SECRET_FIELDS = ("data.storage_options", "run.storage_options")
"""Fields that may hold credentials: no file and no message shows their values."""

_LONGEST_PREFIX = 40  # of a configuration that no version has written


def flat_values(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config.json, of any version, by the paths of their fields; none that may hold credentials."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and len(prefix) < _LONGEST_PREFIX:
            flat |= flat_values(value, f"{path}.")
        elif not path.endswith("storage_options"):
            flat[path] = value
    return flat


def to_json(config: Config) -> str:
    """Serialise a configuration, without the values of fields that may hold credentials."""
    values = dataclasses.asdict(config)
    values["method"] = {"name": config.method.name, **values["method"]}
    for path in SECRET_FIELDS:
        group, name = path.split(".")
        values[group][name] = None
    values["data"]["relist"] = False  # asked for once, and no setting of the run
    unused = {name for groups in GROUPS.values() for name in groups} - {*GROUPS[config.task]}
    values = {name: value for name, value in values.items() if name not in unused}
    return json.dumps(values, indent=1)


def from_json(text: str, source: str = "the configuration") -> Config:
    """Read what `to_json` wrote.

    Args:
        text: The JSON.
        source: Where it was read from, for messages.

    Raises:
        ValueError: It is no such JSON, has fields that this version does not know, fields that are there twice, or
            values that they cannot have.
    """
    try:
        values = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(f"{source} is no configuration: its brackets are nested too deeply") from None
    except _Twice as error:
        raise ValueError(f"{source}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{source} is no valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{source} is no JSON object")
    try:
        config: Config = _build(Config, values, "")
    except RecursionError:
        raise ValueError(f"{source} is no configuration: its brackets are nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return config


class _Twice(ValueError):
    """An object has two values of one name."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise _Twice(f"the field {shorten(name)} is there twice; drop one of them")
        values[name] = value
    return values


def _meant(name: str, known: Iterable[str]) -> str:
    """A question about the field that an unknown one may stand for; empty if none is like it."""
    close = most_like(name, known)
    return f" (did you mean {close}?)" if close else ""


def _build(cls: type[Any], values: dict[str, Any], prefix: str) -> Any:
    hints = types_of(cls)
    if unknown := sorted(set(values) - set(hints)):
        shown = [f"{prefix}{shorten(name)}{_meant(name, hints)}" for name in unknown]
        raise ValueError(f"it has unknown fields: {', '.join(shown)}")
    return cls(**{name: _convert(hints[name], value, f"{prefix}{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    is_method = hint == AnyMethod
    if not is_method and not dataclasses.is_dataclass(hint):
        if path in SECRET_FIELDS and not isinstance(value, str | None):
            raise ValueError(
                f"{path} is no text; use the JSON object in quotes, or the name of a file with it, or null"
            )
        return from_json_value(hint, value, path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} is {shorten(json.dumps(value))}; use an object of its fields")
    if not is_method:
        return _build(hint, value, f"{path}.")
    fields = dict(value)
    name = fields.pop("name", MoCoConfig.name)
    if name not in method_names():
        raise ValueError(f"{path}.name is {shorten(json.dumps(name))}; use one of {', '.join(method_names())}")
    return _build(method_class(name), fields, f"{path}.")
