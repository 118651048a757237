"""The command line of a run: a preset, changed by flags."""

from __future__ import annotations

import dataclasses
import difflib
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import Annotated

import tyro
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from moco_ray.config import Config
from moco_ray.core.methods import method_class, method_names
from moco_ray.presets import PRESETS, load_preset
from moco_ray.report.screen import Screen
from moco_ray.train.dry_run import dry_run
from moco_ray.train.job import RunFailed
from moco_ray.train.pretrain import pretrain

_DEFAULT_PRESET = "moco-v2"
_STOPPED = "stopped; the command in the first line resumes this run from its last checkpoint"
_SECRET_FLAGS = ("--data.storage-options", "--run.storage-options")


@dataclass(frozen=True, kw_only=True)
class _Arguments:
    """Pretrain an image encoder with MoCo on your own images. Defaults are those of the preset."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    dry_run: bool = False
    """Look at the images and say what the run would be, without training."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and pretrain; returns the exit code.

    What a user can mend is one clear message and exit code 2; a cluster or storage that fails again and again is
    one, and exit code 1. Whatever ends a run, the same command resumes it.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    terminated = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        terminated.set()
        raise KeyboardInterrupt  # any other exception is lost where Ray waits, but for SystemExit, which it replaces

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    try:
        parsed = parse(arguments)
        if parsed.dry_run:
            dry_run(parsed.config, say=_say)
        else:
            with Screen() as say:
                pretrain(parsed.config, say=say, resume_command=_resume_command(arguments))
    except ValueError as error:
        return _fail(str(error), 2)
    except (RunFailed, OSError) as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail(_STOPPED, 143 if terminated.is_set() else 130)
    return 0


def _fail(message: str, code: int) -> int:
    Console(stderr=True).print(Panel(Text(message), title="moco_ray", border_style="red"))
    return code


def parse(arguments: Sequence[str]) -> _Arguments:
    """Turn flags into a configuration.

    Raises:
        ValueError: The preset is unknown, or fields contradict each other.
    """
    name, rest = _take(arguments, "--preset", [*PRESETS, "the path of a run's config.json"])
    method, rest = _take(rest, "--method", method_names())
    default = load_preset(name or _DEFAULT_PRESET)
    if method is not None and method != default.method.name:
        default = replace(default, method=method_class(method)())
    _check_flags(rest, default)
    parsed = tyro.cli(
        _Arguments,
        args=rest,
        default=_Arguments(config=default),
        config=(tyro.conf.AvoidSubcommands,),  # the preset has chosen the method
        description=(
            f"{_Arguments.__doc__} Presets (--preset NAME or a run's config.json): {', '.join(PRESETS)}. Other methods for "
            f"a preset (--method NAME): {', '.join(method_names())}."
        ),
    )
    return replace(parsed, config=replace(parsed.config, preset=default.preset))


def _check_flags(arguments: Sequence[str], default: Config) -> None:
    """Name the flag that was meant, where there is none of that name.

    Raises:
        ValueError: A flag is unknown.
    """
    known = ["--preset", "--method", "--dry-run", "--help"]
    for group in dataclasses.fields(default):
        if dataclasses.is_dataclass(value := getattr(default, group.name)):
            known += [f"--{group.name}.{item.name}".replace("_", "-") for item in dataclasses.fields(value)]
    for argument in arguments:
        flag = _flag(argument)
        if not flag.startswith("--") or flag.replace(".no-", ".") in known:
            continue
        if others := _methods_with(flag):
            raise ValueError(
                f"the flag {flag} is not for the method {default.method.name}, but for {' and '.join(others)}; drop it, or "
                f"choose the method with --method {others[0]}"
            )
        close = difflib.get_close_matches(flag, known, n=2, cutoff=0.6)
        same_group = [name for name in known if "." in flag and name.startswith(flag.split(".")[0] + ".")]
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(same_group or known[:3])};"
        raise ValueError(f"the flag {flag} is unknown; {hint} see --help for all")


def _flag(argument: str) -> str:
    """The flag of an argument, in its one spelling."""
    return argument.split("=", 1)[0].replace("_", "-")


def _methods_with(flag: str) -> list[str]:
    """Methods that have a flag's field."""
    field = flag.removeprefix("--method.").replace("no-", "").replace("-", "_")
    return (
        [name for name in method_names() if field in [item.name for item in dataclasses.fields(method_class(name))]]
        if flag.startswith("--method.")
        else []
    )


def _take(arguments: Sequence[str], flag: str, known: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split `flag NAME` from the other arguments: it decides what the others' defaults are."""
    name, rest, waiting = None, [], False
    for argument in arguments:
        if waiting:
            name, waiting = argument, False
        elif argument == flag:
            waiting = True
        elif argument.startswith(f"{flag}="):
            name = argument.removeprefix(f"{flag}=")
        else:
            rest.append(argument)
    if waiting:
        raise ValueError(f"{flag} needs a name: {', '.join(known)}")
    return name, rest


def _resume_command(arguments: Sequence[str]) -> str:
    """The same command with the run's name, and without what may hold credentials."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif _flag(argument) in (*_SECRET_FLAGS, "--run.name"):
            skip = "=" not in argument
        else:
            kept.append(argument)
    command = shlex.join(["python", "jobs/pretrain.py", *kept]).replace("{", "{{").replace("}", "}}")
    secret = any(_flag(argument) in _SECRET_FLAGS for argument in arguments)
    return f"{command} --run.name {{name}}" + (" (and the same storage options)" if secret else "")


def _say(line: str) -> None:
    print(line, flush=True)
