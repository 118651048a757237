"""Search for good hyper-parameters: many runs of one preset, and a report of why."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from moco_ray.cli import detect, finetune, linear_probe
from moco_ray.cli import pretrain as cli
from moco_ray.cli.command import again, check_uri, run_command, say
from moco_ray.cli.flags import Flag, Given, flags_of, scan
from moco_ray.cli.output import outlive_output
from moco_ray.cli.transfer import Command, parse_given, transfer_flags
from moco_ray.config.programs import as_typed
from moco_ray.sweep.config import SweepConfig

_PROGRAM = "sweep"
_TASK = Flag(path="task", hint=str, default="pretraining")
_STOPPED = "stopped; the same command goes on with this sweep"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and sweep; returns the exit code, which is that of jobs/pretrain.py."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: _sweep(given), stopped=_STOPPED)


def _sweep(arguments: Sequence[str]) -> None:
    job, arguments = job_of(arguments)
    own, rest = split(arguments, job)
    if any(item.flag.path == "help" for item in rest):
        from moco_ray.cli.help import print_flags

        print(f"{as_typed(SweepConfig.__doc__ or '')}\n")
        print_flags(SweepConfig, None, _PROGRAM)
        print("\n--task linear-probe, finetune or detection makes trials of these jobs, from --model.init ENCODER on.")
        print("\nand every flag of a run, which all trials have in common:\n")
    settings = settings_of(own)
    if job is None:
        parsed = cli.parse_given(rest)
        config, is_dry = parsed.config, parsed.dry_run
    else:
        transferred = parse_given(rest, job)
        config, is_dry = transferred.config, bool(transferred.own.get("dry_run"))
        if unused := [name for name in transferred.own if name not in ("preset", "dry_run")]:
            raise ValueError(f"a sweep has no use for --{unused[0]}; drop it")
    check_uri(config)
    if not is_dry:
        outlive_output()
    say(f"moco_ray: sweep, preset {config.preset}, images {config.data.uri}")
    from moco_ray.cluster.connection import choose_authentication

    choose_authentication()
    from rich.console import Console

    from moco_ray.sweep.sweep import sweep  # here, like all that takes seconds to import

    sweep(settings, config, say=say, command=again(rest), console=Console(), is_dry=is_dry)


def job_of(arguments: Sequence[str]) -> tuple[Command | None, list[str]]:
    """The job that --task names, None for pretraining, and the other arguments.

    Raises:
        ValueError: There is none of that name.
    """
    rest = list(arguments)
    place = next((i for i, argument in enumerate(rest) if argument.partition("=")[0] == _TASK.name), None)
    if place is None:
        return None, rest
    given = scan(rest[place : place + 1 if "=" in rest[place] else place + 2], [_TASK])[0]
    del rest[place : place + (1 if "=" in rest[place] else 2)]
    if given.value == "pretraining":
        return None, rest
    jobs = {job.task: job for job in (linear_probe.COMMAND, finetune.COMMAND, detect.COMMAND)}
    if given.value not in jobs:
        raise ValueError(f"--task {given.value!r} is unknown; use pretraining, {', '.join(jobs)}")
    return jobs[given.value], rest


def split(arguments: Sequence[str], job: Command | None = None) -> tuple[list[Given], list[Given]]:
    """Split a command into the flags of the sweep and those of a run.

    Args:
        arguments: The command's.
        job: What trials are runs of; None: pretraining.

    Raises:
        ValueError: It has something that is no flag or value.
    """
    own = [replace(flag, is_repeated=flag.path == "space") for flag in flags_of(SweepConfig())]
    given = scan(arguments, [*own, *(cli.run_flags() if job is None else transfer_flags(job))])
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
