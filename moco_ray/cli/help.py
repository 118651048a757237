"""The help of the commands; imported for --help alone."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

import tyro

from moco_ray.config import Config
from moco_ray.config.methods import method_names
from moco_ray.config.presets import PRESETS, preset_list


@dataclass(frozen=True, kw_only=True)
class _Flags:
    config: Annotated[Config, tyro.conf.arg(name="")]
    dry_run: bool = False
    """Look at the images and say what the run would be, without training."""
    list_presets: bool = False
    """Say what each preset is for, one a line."""


def print_help(default: Config, name: str, *, program: str = "jobs/pretrain.py") -> None:
    """Print what a preset is, and every flag of a run with the preset's value.

    Args:
        default: The preset, perhaps with another method.
        name: As --preset has it.
        program: The command.
    """
    about = f"the run of {name}, which was of preset {default.preset}"
    if name in PRESETS:
        about = inspect.getdoc(PRESETS[name]) or ""
    print("Pretrain an image encoder with MoCo on your own images. Defaults are those of the preset.")
    print(f"\n{preset_list()}")
    print(f"\nMethods (--method NAME puts another into a preset): {', '.join(method_names())}")
    print(f"\nPreset {name}: {about}\n")
    print_flags(_Flags, _Flags(config=default), program)


def print_flags(cls: type[object], default: object | None, program: str) -> None:
    """Print the flags of a dataclass."""
    try:
        tyro.cli(
            cls,
            args=["--help"],
            default=default,
            prog=program,
            description="",
            config=(tyro.conf.AvoidSubcommands,),  # the preset has chosen the method
        )
    except SystemExit:
        return
