"""The command line of a sweep: its own flags beside those of a run."""

from __future__ import annotations

import dataclasses
import difflib
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

import tyro
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from moco_ray import cli
from moco_ray.sweep.config import SweepConfig
from moco_ray.sweep.sweep import sweep
from moco_ray.train.job import RunFailed

_STOPPED = "stopped; the same command goes on with this sweep"
_SECRET_FLAGS = ("--data.storage-options", "--run.storage-options")
_HELP = ("--help", "-h")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and sweep; returns the exit code, which is that of jobs/pretrain.py."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    terminated = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        terminated.set()
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    console = Console()
    try:
        own, rest = split(arguments)
        settings = parse_settings(own, shows_help=any(flag in arguments for flag in _HELP))
        parsed = cli.parse(rest)
        command = without_secrets(rest)
        sweep(settings, parsed.config, say=_say, command=command, console=console, is_dry=parsed.dry_run)
    except ValueError as error:
        return _fail(str(error), 2)
    except (RunFailed, OSError) as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail(_STOPPED, 143 if terminated.is_set() else 130)
    return 0


def parse_settings(arguments: Sequence[str], *, shows_help: bool = False) -> SweepConfig:
    """Turn a sweep's own flags into its settings.

    Args:
        arguments: Flags of the sweep alone.
        shows_help: Print what they are; the help of a run's flags is to follow.

    Raises:
        ValueError: A value is impossible.
    """
    if shows_help:
        try:
            tyro.cli(SweepConfig, args=["--help"], prog="tune/sweep.py", description=SweepConfig.__doc__)
        except SystemExit:
            print("\nand every flag of a run, which all trials have in common:\n")
    return tyro.cli(SweepConfig, args=list(arguments), prog="tune/sweep.py", description=SweepConfig.__doc__)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command into the flags of the sweep and those of a run.

    Raises:
        ValueError: A flag is of neither, and resembles one of the sweep.
    """
    known = [f"--{item.name.replace('_', '-')}" for item in dataclasses.fields(SweepConfig)]
    own: list[str] = []
    rest: list[str] = []
    target = rest
    for argument in arguments:
        if argument.startswith("--"):
            flag = argument.split("=", 1)[0].replace("_", "-")
            target = own if flag in known else rest
            close = difflib.get_close_matches(flag, known, n=1, cutoff=0.75)
            if target is rest and "." not in flag and close:
                raise ValueError(f"the flag {flag} is unknown; did you mean {close[0]}? See --help for all")
        target.append(argument)
    return own, rest


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """Arguments of a run without the sweep's name and what may hold credentials."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument.split("=", 1)[0].replace("_", "-") in (*_SECRET_FLAGS, "--run.name"):
            skip = "=" not in argument
        else:
            kept.append(argument)
    return kept


def _fail(message: str, code: int) -> int:
    Console(stderr=True).print(Panel(Text(message), title="moco_ray", border_style="red"))
    return code


def _say(line: str) -> None:
    print(line, flush=True)
