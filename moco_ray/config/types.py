"""Whether each field of a configuration holds what its type says, whoever has set it."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from moco_ray.config.fields import from_python, members, types_of
from moco_ray.config.paths import PATHS

if TYPE_CHECKING:
    from moco_ray.config.config import Config


def check_groups(config: Config) -> None:
    """Check that the parts of a configuration are configurations.

    Raises:
        ValueError: One is not.
    """
    for name, hint in types_of(type(config)).items():
        value = getattr(config, name)
        if not dataclasses.is_dataclass(members(hint)[0]):
            from_python(hint, value, name)
        elif not isinstance(value, members(hint)):
            wanted = " or ".join(f"a {member.__name__}" for member in members(hint))
            raise ValueError(f"{name} is a {type(value).__name__}; use {wanted}")


def take_values(config: Config) -> None:
    """Check the type of each field, and make plain numbers and tuples of those of numpy and of lists.

    Args:
        config: Frozen, and changed in place while it is being made.

    Raises:
        ValueError: A field holds what it cannot.
    """
    groups = [name for name, hint in types_of(type(config)).items() if dataclasses.is_dataclass(members(hint)[0])]
    for group in groups:
        part: Any = getattr(config, group)
        if changed := _changed(part, group):
            object.__setattr__(config, group, dataclasses.replace(part, **changed))


def take_own_values(part: Any, group: str) -> None:
    """The same for a part that checks itself while it is being made.

    Raises:
        ValueError: A field holds what it cannot.
    """
    for name, value in _changed(part, group).items():
        object.__setattr__(part, name, value)


def _changed(part: Any, group: str) -> dict[str, Any]:
    """Values that must be written in another way."""
    changed = {}
    defaults = {item.name: item.default for item in dataclasses.fields(part)}
    for name, hint in types_of(type(part)).items():
        value = getattr(part, name)
        if isinstance(value, os.PathLike) and f"{group}.{name}" in PATHS:
            continue  # is made text
        field = f"{group}.{name}".replace("_", "-")
        if isinstance(value, str) and not value and defaults[name] != "":
            raise ValueError(
                f"{field} is '': give it a value, or leave it out (an unset variable of a shell is an empty text)"
            )
        if (taken := from_python(hint, value, field)) is not value:
            changed[name] = taken
    return changed
