"""The command line of a sweep: its own flags beside those of a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from moco_ray.cli import pretrain as cli
from moco_ray.cli.command import again, check_uri, run_command, say
from moco_ray.cli.flags import Given, flags_of, scan
from moco_ray.cli.output import outlive_output
from moco_ray.sweep.config import SweepConfig

_PROGRAM = "tune/sweep.py"
_STOPPED = "stopped; the same command goes on with this sweep"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and sweep; returns the exit code, which is that of jobs/pretrain.py."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: _sweep(given), stopped=_STOPPED)


def _sweep(arguments: Sequence[str]) -> None:
    own, rest = split(arguments)
    if any(item.flag.path == "help" for item in rest):
        from moco_ray.cli.help import print_flags

        print(f"{SweepConfig.__doc__}\n")
        print_flags(SweepConfig, None, _PROGRAM)
        print("\nand every flag of a run, which all trials have in common:\n")
    settings = settings_of(own)
    parsed = cli.parse_given(rest)
    check_uri(parsed.config)
    if not parsed.dry_run:
        outlive_output()
    say(f"moco_ray: sweep, preset {parsed.config.preset}, images {parsed.config.data.uri}")
    from moco_ray.cluster.connection import choose_authentication

    choose_authentication()
    from rich.console import Console

    from moco_ray.sweep.sweep import sweep  # here, like all that takes seconds to import

    sweep(settings, parsed.config, say=say, command=again(rest), console=Console(), is_dry=parsed.dry_run)


def split(arguments: Sequence[str]) -> tuple[list[Given], list[Given]]:
    """Split a command into the flags of the sweep and those of a run.

    Raises:
        ValueError: It has something that is no flag or value.
    """
    own = [replace(flag, is_repeated=flag.path == "space") for flag in flags_of(SweepConfig())]
    given = scan(arguments, [*own, *cli.run_flags()])
    return [item for item in given if item.flag in own], [item for item in given if item.flag not in own]


def settings_of(given: Sequence[Given]) -> SweepConfig:
    """Turn a sweep's own flags into its settings.

    Raises:
        ValueError: A value is impossible.
    """
    values: dict[str, Any] = {item.flag.path: item.value for item in given}
    if "space" in values:
        values["space"] = tuple(text for item in given if item.flag.is_repeated for text in item.texts)
    return SweepConfig(**values)
