"""The help of the commands; imported for --help alone."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import field, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from moco_ray.cli.flags import DRY_RUN, ESTIMATES, LIST_PRESETS, Flag
from moco_ray.config import Config
from moco_ray.config.config import GROUPS, UNUSED
from moco_ray.config.fields import docs_of, is_switch, types_of
from moco_ray.config.methods import method_names
from moco_ray.config.presets import PRESETS, preset_list
from moco_ray.config.programs import as_typed, spoken

if TYPE_CHECKING:
    from moco_ray.cli.transfer import Command


def print_help(default: Config, name: str) -> None:
    """Print what a preset is, and every flag of a run with the preset's value.

    Args:
        default: The preset, perhaps with another method.
        name: As --preset has it.
    """
    about = f"the run of {name}, which was of preset {default.preset}"
    if name in PRESETS:
        about = inspect.getdoc(PRESETS[name]) or ""
    print("Pretrain an image encoder with MoCo on your own images. Defaults are those of the preset.")
    print(f"\n{preset_list()}")
    print(f"\nMethods (--method NAME puts another into a preset): {', '.join(method_names())}")
    print(f"\nPreset {name}: {as_typed(about)}\n")
    preset = Flag(path="preset", hint=str, about="Name of the preset that the other fields start from.")
    print_flags(_class_of(default, name, [preset, DRY_RUN, ESTIMATES, LIST_PRESETS]), None, "pretrain")


def print_transfer_help(command: Command, default: Config, name: str, common: Sequence[Flag]) -> None:
    """Print what a job that starts from an encoder is for, and its flags with the preset's values."""
    preset = command.presets.get(name)
    print(f"{command.about} Defaults are those of the preset.")
    print(
        f"\n{spoken(command.program)} ENCODER --data.uri IMAGES: ENCODER is --model.init, a run's folder or a file of weights."
    )
    print(f"\n{preset_list(command.presets)}")
    print(f"\nPreset {name}: {as_typed(inspect.getdoc(preset) or '') if preset else 'of a run'}\n")
    print_flags(_class_of(default, name, [flag for flag in common if flag.path != "help"]), None, command.program)


def _class_of(default: Config, preset: str, own: Sequence[Flag]) -> type[object]:
    """A dataclass of a command's own flags and of the fields that its task has a use for, as tyro wants it."""
    fields: list[tuple[str, Any, Any]] = []
    for flag in own:
        value = preset if flag.path == "preset" else False if is_switch(flag.hint) else None
        hint = flag.hint if value is not None else flag.hint | None
        fields.append((flag.path, Annotated[hint, tyro.conf.arg(help=flag.about)], value))
    for group in GROUPS[default.task]:
        part = getattr(default, group)
        hints, docs = types_of(type(part)), docs_of(type(part))
        shown = [name for name in hints if f"{group}.{name}" not in UNUSED[default.task]]
        own_fields = [
            (name, Annotated[hints[name], tyro.conf.arg(help=as_typed(docs[name]))], field(default=getattr(part, name)))
            for name in shown
        ]
        cls = make_dataclass(type(part).__name__, own_fields, frozen=True)
        cls.__doc__ = inspect.getdoc(type(part))
        fields.append((group, cls, cls()))
    return make_dataclass("Flags", [(name, hint, field(default=value)) for name, hint, value in fields])


def print_flags(cls: type[object], default: object | None, program: str) -> None:
    """Print the flags of a dataclass, as those of a program."""
    try:
        tyro.cli(
            cls,
            args=["--help"],
            default=default,
            prog=spoken(program),
            description="",
            config=(tyro.conf.AvoidSubcommands,),  # the preset has chosen the method
        )
    except SystemExit:
        return
