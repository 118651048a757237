"""Pretrain an image encoder with MoCo, or another contrastive method, without labels."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from moco_ray.cli.command import again, check_uri, resume_command, run_command, say
from moco_ray.cli.flags import DRY_RUN, ESTIMATES, LIST_PRESETS, Flag, Given, flags_of, flags_of_task, scan
from moco_ray.cli.output import outlive_output
from moco_ray.cli.presets import load_preset
from moco_ray.cli.transfer import write_json
from moco_ray.config import Config
from moco_ray.config.fields import with_values
from moco_ray.config.methods import AnyMethod, method_class
from moco_ray.config.presets import preset_list

_DEFAULT_PRESET = "moco-v2"
_PROGRAM = "pretrain"
_OWN = [
    Flag(path="preset", hint=str, default="small"),
    Flag(path="method", hint=str, default="moco"),
    DRY_RUN,
    ESTIMATES,
    LIST_PRESETS,
    Flag(path="help", hint=bool),
]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What the command line of a run says."""

    config: Config
    """The run."""
    dry_run: bool = False
    """Whether to say what the run would be, without training."""
    json: str | None = None
    """Where to write what a dry run estimates; None: nowhere."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and pretrain; returns the exit code. Whatever ends a run, the same command resumes it."""
    given_arguments = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: _pretrain(given_arguments), stopped="stopped")


def _pretrain(arguments: Sequence[str]) -> None:
    given = scan_run(arguments)
    parsed = parse_given(given)
    check_uri(parsed.config)
    if not parsed.dry_run:
        outlive_output()
    say(
        f"moco_ray: {'dry run, ' if parsed.dry_run else ''}preset {parsed.config.preset}, images {parsed.config.data.uri}"
    )
    # Imported here, because they take seconds.
    if parsed.dry_run:
        from moco_ray.driver.dry_run import dry_run
        from moco_ray.driver.paths import check_paths
        from moco_ray.tasks.pretraining import PRETRAINING

        check_paths(parsed.config)
        estimates = dry_run(PRETRAINING, parsed.config, say=say)
        write_json(parsed.json, json.dumps(estimates, indent=1).encode(), parsed.config.run.storage_options)
    else:
        from moco_ray.cli.screen import Screen
        from moco_ray.driver.run import pretrain

        with Screen() as screen:
            command = resume_command(_PROGRAM, again(given), given, parsed.config.run.name)
            pretrain(parsed.config, say=screen, resume_command=command)


def parse(arguments: Sequence[str]) -> Arguments:
    """Turn flags into a configuration.

    Raises:
        ValueError: The preset or a flag is unknown, or fields contradict each other.
    """
    return parse_given(scan_run(arguments))


def run_flags() -> list[Flag]:
    """All flags of a run, whatever its method."""
    methods = [Flag(path=f"method.{flag.path}", hint=flag.hint, default=flag.default) for flag in _method_flags()]
    config = [flag for flag in flags_of_task("pretraining") if not flag.path.startswith("method.")]
    return [*_OWN, *config, *methods]


def scan_run(arguments: Sequence[str]) -> list[Given]:
    """Split the command line of a run.

    Raises:
        ValueError: It has something that is no flag or value.
    """
    return scan(arguments, run_flags())


def parse_given(given: Sequence[Given]) -> Arguments:
    """Turn the flags of a run into its configuration.

    Raises:
        ValueError: The preset is unknown, or fields contradict each other.
    """
    own: dict[str, Any] = {item.flag.path: item.value for item in given if item.flag in _OWN}
    if own.get("list_presets"):
        print(preset_list())
        raise SystemExit(0)
    preset = own.get("preset", _DEFAULT_PRESET)
    default = load_preset(preset, _access(given, preset) if "://" in preset else None)
    method = own.get("method", default.method.name)
    if method != default.method.name:
        default = replace(default, method=method_class(method)())
    if own.get("help"):
        from moco_ray.cli.help import print_help

        print_help(default, preset)
        raise SystemExit(0)
    _check_method(given, default)
    config = with_values(default, {item.flag.path: item.value for item in given if item.flag not in _OWN})
    if "json" in own and not own.get("dry_run"):
        raise ValueError("--json is for what --dry-run estimates; add that, or see metrics.jsonl in the run's folder")
    return Arguments(config=config, dry_run=own.get("dry_run", False), json=own.get("json"))


def _access(given: Sequence[Given], preset: str) -> str | None:
    """Which of the storage options are for a preset's URL too: those of a place on the same kind of storage.

    Raises:
        ValueError: They cannot be read.
    """
    from moco_ray.storage.options import check_options  # it takes a while
    from moco_ray.storage.uris import origin_of

    values = {item.flag.path: item.value for item in given}
    meant: list[str] = []
    for group, place in (("run", "run.storage_path"), ("data", "data.uri")):
        options, uri = values.get(f"{group}.storage_options"), values.get(place)
        check_options(f"--{group}.storage-options", options)
        if options and (uri is None or origin_of(uri) == origin_of(preset)):
            meant.append(options)
    return meant[0] if meant else None


def _method_flags() -> list[Flag]:
    flags = {flag.path: flag for cls in get_args(AnyMethod) for flag in flags_of(cls())}
    return list(flags.values())


def _check_method(given: Sequence[Given], default: Config) -> None:
    """Name the method whose flag was given, where it is not the run's.

    Raises:
        ValueError: There is such a flag.
    """
    own = [flag.path for flag in flags_of(default.method)]
    for item in given:
        group, _, name = item.flag.path.partition(".")
        if group != "method" or not name or name in own:
            continue
        others = [cls.name for cls in get_args(AnyMethod) if name in [flag.path for flag in flags_of(cls())]]
        raise ValueError(
            f"the flag {item.flag.name} is not for the method {default.method.name}, but for {' and '.join(others)}; drop "
            f"it, or choose the method with --method {others[0]}"
        )
