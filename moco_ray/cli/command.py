"""What every command does alike: signals, exit codes, and one message where something must be mended."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from moco_ray.cli.flags import Given
from moco_ray.cli.output import OutputClosed, own_output
from moco_ray.config import Config
from moco_ray.config.programs import DOORS, program
from moco_ray.driver.signals import interrupt_on
from moco_ray.tasks.failure import RunFailed

_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for what was submitted
_INSTALLS = ("pip", "uv", "conda", "py_modules", "image_uri", "container")
_NOT_AGAIN = ("--run.name", "--dry-run", "--data.relist")


def run_command(work: Callable[[], None], *, stopped: str) -> int:
    """Do the work of a command; returns the exit code.

    What a user can mend is one clear message and exit code 2; a cluster or storage that fails again and again is
    one, and exit code 1; 130 after an interrupt, 143 after SIGTERM, 129 where the terminal has gone, and 141 where
    nobody reads any more what is all that the command does.

    Args:
        work: What the command does.
        stopped: What to say when it was stopped, where the work says nothing of its own.
    """
    received = interrupt_on(signal.SIGTERM, signal.SIGHUP)
    with own_output():
        try:
            try:
                work()
            finally:
                sys.stdout.flush()
        except ValueError as error:
            return _fail(str(error), 2)
        except (RunFailed, OSError) as error:
            return _fail(str(error), 1)
        except KeyboardInterrupt as error:
            return _fail(str(error) or stopped, 128 + (received or [signal.SIGINT])[0])
        except OutputClosed:
            return 128 + signal.SIGPIPE
    return 0


def say(line: str) -> None:
    """Print a line at once; what the terminal cannot show of a file name is printed as its number."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def check_uri(config: Config) -> None:
    """Check, before anything is imported that takes seconds, that images were named.

    Raises:
        ValueError: They were not.
    """
    if not config.data.uri:
        raise ValueError("data.uri is missing; name a folder of images, a manifest or Parquet files: --data.uri URI")


def again(given: Iterable[Given]) -> list[str]:
    """Arguments that make the same run once more, under another name: without what may hold credentials."""
    kept = [item for item in given if item.flag.name not in _NOT_AGAIN and not item.flag.is_secret]
    return [argument for item in kept for argument in item.arguments()]


def command_line(name: str, arguments: Iterable[str]) -> str:
    """A command for a shell: the program's, or that of submitting it, where this process was submitted itself."""
    command = shlex.join([*program(name), *arguments])
    environment = _environment_of_job()
    if environment is None:
        return command
    options = ["--working-dir", "."] if "working_dir" in environment else []
    if _installs(environment) and _is_of_the_repository(name):
        options += ["--runtime-env", "deploy/runtime_env.yaml"]
    return f"{shlex.join(['ray', 'job', 'submit', *options])} -- {command}"


def resume_command(name: str, arguments: Iterable[str], given: Iterable[Given], run: str | None) -> str:
    """The same command with {name} for the run's name, and without what may hold credentials.

    Args:
        name: Of the program.
        arguments: Those of the command.
        given: Its flags, of which some may hold credentials.
        run: The name that was given for the run.
    """
    command = command_line(name, arguments).replace("{", "{{").replace("}", "}}")
    flag = "--run.name=" if run is not None and run.startswith("-") else "--run.name "
    unsaid = ["storage options"] if any(item.flag.is_secret for item in given) else []
    if _installs(_environment_of_job() or {}) and not _is_of_the_repository(name):
        unsaid.append("runtime environment")
    return f"{command} {flag}{{name}}" + (f" (and the same {' and '.join(unsaid)})" if unsaid else "")


def _environment_of_job() -> dict[str, Any] | None:
    """The runtime environment that this process was submitted with; None if it was not."""
    job = os.environ.get(_JOB)
    return None if job is None else json.loads(job).get("runtime_env") or {}


def _installs(environment: Mapping[str, Any]) -> bool:
    return any(environment.get(name) for name in _INSTALLS)


def _is_of_the_repository(name: str) -> bool:
    """Whether the command is of a file of the repository, beside deploy/."""
    return program(name)[-1].endswith(DOORS[name])


def _fail(message: str, code: int) -> int:
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    Console(stderr=True).print(Panel(Text(message), title="moco_ray", border_style="red"))
    return code
