"""The methods' configurations, one a file, and the list of them. docs/extending.md shows how to add one."""

from __future__ import annotations

from typing import get_args

from moco_ray.config.methods.end_to_end import EndToEndConfig
from moco_ray.config.methods.memory_bank import MemoryBankConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.methods.moco_v3 import MoCoV3Config
from moco_ray.config.methods.simclr import SimCLRConfig

AnyMethod = MoCoConfig | MoCoV3Config | EndToEndConfig | MemoryBankConfig | SimCLRConfig


def method_names() -> list[str]:
    """Names of all methods."""
    return [cls.name for cls in get_args(AnyMethod)]


def method_class(name: str) -> type[AnyMethod]:
    """The configuration class of a method.

    Raises:
        ValueError: There is none of that name.
    """
    for cls in get_args(AnyMethod):
        if cls.name == name:
            return cls  # type: ignore[no-any-return]
    raise ValueError(f"--method {name!r} is unknown; there are {', '.join(method_names())}")
