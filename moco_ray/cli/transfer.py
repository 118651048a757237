"""Command lines of jobs that start from an encoder: a preset, what the encoder says of itself, and flags, in this order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from moco_ray.cli.command import again, resume_command, say
from moco_ray.cli.flags import DRY_RUN, LIST_PRESETS, Flag, Given, flags_of_task, scan
from moco_ray.cli.presets import load_preset
from moco_ray.config import Config
from moco_ray.config.config import TaskName
from moco_ray.config.fields import with_values
from moco_ray.config.programs import spoken
from moco_ray.config.transfer_presets import Presets

JSON = Flag(path="json", hint=str, default="results.json", about="Write the results to this file, too.")
_PRESET = "Name of the preset that the other fields start from, or the path of a run's config.json."
_ENCODER = "--model.init"


@dataclass(frozen=True, kw_only=True)
class Command:
    """A job that starts from an encoder."""

    program: str
    """Its name in `config.programs`."""
    about: str
    """What it is for, in a sentence."""
    task: TaskName
    """Decides which flags there are."""
    presets: Presets
    """Of which the first one is the default."""
    own: tuple[Flag, ...] = ()
    """Further flags."""


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """What the command line of such a job says."""

    command: Command
    config: Config
    own: dict[str, Any] = field(default_factory=dict)
    """Values of flags that are no fields, by path: preset, json, dry_run and the command's own."""
    given: list[Given] = field(default_factory=list)
    """All flags, as they were written."""

    def resume_command(self) -> str:
        """The same command again, with {name} for the run's name."""
        return resume_command(self.command.program, again(self.given), self.given, self.config.run.name)


def parse_transfer(arguments: Sequence[str], command: Command) -> Parsed:
    """Turn a command line into a configuration; an argument before all flags is the encoder's place.

    The network and its images are those of the encoder, where it says so, and data and labels those of its run, where none
    are named.

    Raises:
        ValueError: The preset or a flag is unknown, the encoder cannot be read, or fields contradict each other.
    """
    if arguments and not arguments[0].startswith("-"):
        arguments = [_ENCODER, *arguments]
    return parse_given(scan(arguments, transfer_flags(command)), command)


def common_flags(command: Command) -> list[Flag]:
    """The flags of a job that are no fields."""
    return [
        Flag(path="preset", hint=str, default=next(iter(command.presets)), about=_PRESET),
        JSON,
        DRY_RUN,
        LIST_PRESETS,
        Flag(path="help", hint=bool),
        *command.own,
    ]


def transfer_flags(command: Command) -> list[Flag]:
    """All flags of a job."""
    return [*common_flags(command), *flags_of_task(command.task)]


def parse_given(given: Sequence[Given], command: Command) -> Parsed:
    """Turn the flags of such a job into its configuration; errors as of `parse_transfer`."""
    common = common_flags(command)
    own = {item.flag.path: item.value for item in given if item.flag in common}
    values = {item.flag.path: item.value for item in given if item.flag not in common}
    if own.get("list_presets"):
        from moco_ray.config.presets import preset_list

        print(preset_list(command.presets))
        raise SystemExit(0)
    name = own.get("preset", next(iter(command.presets)))
    preset = _preset(name, command, values)
    if own.get("help"):
        from moco_ray.cli.help import print_transfer_help

        print_transfer_help(command, preset, name, common)
        raise SystemExit(0)
    config = with_values(adopted(preset, values), values)
    return Parsed(command=command, config=config, own=own, given=list(given))


def _preset(name: str, command: Command, values: Mapping[str, Any]) -> Config:
    """A preset of the command, or the configuration of a run of the same task.

    Raises:
        ValueError: There is none.
    """
    if name in command.presets:
        return command.presets[name]()
    try:
        config = load_preset(name, _access(name, values) if "://" in name else None)
    except ValueError as error:
        if "://" in name or name.endswith(".json"):
            raise
        raise ValueError(
            f"--preset {name!r} is unknown; there are {', '.join(command.presets)}, or the path of a run's config.json"
        ) from error
    if config.task != command.task:
        raise ValueError(
            f"--preset {name!r} is of {config.task}, and {spoken(command.program)} is for {command.task}; use one of "
            f"{', '.join(command.presets)}"
        )
    return config


def adopted(preset: Config, values: Mapping[str, Any]) -> Config:
    """The preset with network, crops and standardisation of the encoder, and the data of its run where none are named.

    Args:
        preset: To change.
        values: Of the flags that were given, by path.

    Raises:
        ValueError: The encoder cannot be read.
    """
    init = values.get("model.init", preset.model.init)
    if init is None:
        return preset
    from moco_ray.weights.origin import origin_of  # here, because it takes seconds to import torch

    origin = origin_of(init, _access(init, values))
    if origin is None:
        if "model.arch" not in values:
            say(f"{init} does not say what network it is of: taken for {preset.model.arch} (--model.arch)")
        return preset
    model = {name: getattr(origin.model, name) for name in ("arch", "stem", "patch_px")}
    views = replace(preset.views, crop_px=origin.crop_px, mean=origin.mean, std=origin.std)
    config = replace(preset, model=replace(preset.model, **model), views=views)
    if origin.config is None or values.get("data.uri", preset.data.uri):
        return config
    theirs = origin.config
    say(f"images: those of {origin.run or init}, {theirs.data.uri} (--data.uri names others)")
    names = ["uri", "image_column", "label_column", "max_pixels"]
    names += ["exclude"] if preset.task != "detection" else []
    names += ["classes"] if preset.task != "detection" and "data.target_columns" not in values else []
    same = {name: getattr(theirs.data, name) for name in names}
    return replace(config, data=replace(config.data, **same), eval=replace(config.eval, uri=theirs.eval.uri))


def _access(init: str, values: Mapping[str, Any]) -> str | None:
    """The storage options that are for the encoder: those of a place on the same kind of storage."""
    from moco_ray.storage.uris import protocol_of

    for group, place in (("run", "run.storage_path"), ("data", "data.uri")):
        options = values.get(f"{group}.storage_options")
        if options and protocol_of(values.get(place, "")) == protocol_of(init):
            return str(options)
    return None


def write_json(uri: str | None, content: bytes, storage_options: str | None) -> None:
    """Write a job's results where --json asks for them.

    Raises:
        ValueError: It cannot be written there.
    """
    if uri is None:
        return
    from moco_ray.storage.storage import Storage, resolve_storage_options

    storage = Storage.open(uri, resolve_storage_options(uri, storage_options))
    storage.write_bytes(storage.root, content)
    say(f"results: {uri}")
