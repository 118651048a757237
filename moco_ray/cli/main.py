"""The one program of an installed package: its first argument says what it does."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import moco_ray
from moco_ray.cli.command import run_command
from moco_ray.config.programs import DOORS, program, spoken
from moco_ray.config.resembling import most_like

_ABOUT = "MoCo pretraining of image encoders on Ray: from unlabelled images to a backbone, its measure and its files."
_COMPLETION = "--print-completion"
# What people call a program that has another name.
_OTHER_NAMES = {
    "train": "pretrain",
    "eval": "evaluate",
    "knn": "evaluate",
    "linear": "linear-probe",
    "probe": "linear-probe",
    "detection": "detect",
    "embeddings": "embed",
    "ls": "runs",
    "list": "runs",
    "prune": "runs",
    "convert": "weights",
    "tune": "sweep",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the first argument names, with the others; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given[0].replace("_", "-") if given else "--help"
    if name in DOORS:
        module = importlib.import_module(_module_of(name))
        return int(module.main(given[1:]))
    return run_command(lambda: _answer(name, given), stopped="stopped")


def _answer(name: str, given: Sequence[str]) -> None:
    """Answer what is no program.

    Raises:
        ValueError: It is nothing that is known.
    """
    if name in ("--help", "-h", "help"):
        print(_help())
    elif name in ("--version", "-V"):
        print(f"moco_ray {moco_ray.__version__}")
    elif name.partition("=")[0] == _COMPLETION:
        from moco_ray.cli.completion import completion  # here, because it imports all programs

        shell = name.partition("=")[2] or (given[1] if len(given) > 1 else "")
        print(completion(shell))
    elif name.startswith("-"):
        flag = name.partition("=")[0]
        raise ValueError(
            f"say first what to do; did you mean {spoken('pretrain')} {flag} …? There are {', '.join(DOORS)}"
        )
    else:
        close = _OTHER_NAMES.get(name) or most_like(name, DOORS)
        meant = f"did you mean {spoken(close)}? There" if close else "there"
        word = "a JSON object" if "{" in name else repr(given[0])  # which may hold credentials
        raise ValueError(f"{word} is no program; {meant} are {', '.join(DOORS)}")


def _help() -> str:
    """What there is, a line each, without importing any of it."""
    base = shlex.join(program("pretrain")[:-1])
    width = max(map(len, DOORS))
    lines = [
        _ABOUT,
        "",
        f"usage: {base} PROGRAM [FLAGS]",
        "",
        *(f"  {name:<{width}}  {_about(name)}" for name in DOORS),
        "",
        f"{base} PROGRAM --help explains it; {base} --version says which this is;",
        f"{base} {_COMPLETION} bash (or fish, zsh) prints what completes all of this in a shell.",
    ]
    return "\n".join(lines)


def _about(name: str) -> str:
    """The first line of the documentation of a program's module."""
    spec = importlib.util.find_spec(_module_of(name))
    assert spec is not None and spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    assert text is not None
    return text.splitlines()[0]


def _module_of(name: str) -> str:
    return f"moco_ray.cli.{name.replace('-', '_')}"
