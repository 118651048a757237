"""The programs, and how a command of theirs is written: as the user came in."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import PurePath

NAME = "moco-ray"
"""What an installed package puts on the PATH; what it does is its first argument."""

DOORS = {
    "pretrain": "jobs/pretrain.py",
    "demo": "jobs/demo.py",
    "evaluate": "jobs/evaluate.py",
    "linear-probe": "jobs/linear_probe.py",
    "finetune": "jobs/finetune.py",
    "detect": "jobs/detect.py",
    "embed": "jobs/embed.py",
    "export": "jobs/export.py",
    "weights": "jobs/weights.py",
    "runs": "jobs/runs.py",
    "sweep": "tune/sweep.py",
}
"""All programs: what `moco-ray` calls each, and the file of the repository that does the same."""

_MODULE = "moco_ray/__main__.py"
_NAMED = re.compile(rf"(?:python )?({'|'.join(map(re.escape, DOORS.values()))})")


def program(name: str) -> list[str]:
    """The first words of a command: moco-ray NAME, or python and the program's file, where this process was started so.

    Args:
        name: Of the program, which need not be the one that runs.
    """
    typed = sys.argv[0]
    for door in DOORS.values():
        if typed == door or typed.endswith(f"/{door}"):
            return ["python", typed.removesuffix(door) + DOORS[name]]
    if typed == _MODULE or typed.endswith(f"/{_MODULE}"):
        return ["python", "-m", "moco_ray", name]
    if PurePath(typed).name == NAME and shutil.which(NAME) != typed:  # it is not on the PATH
        return [typed, name]
    return [NAME, name]


def spoken(name: str) -> str:
    """The same for a shell."""
    return shlex.join(program(name))


def as_typed(text: str) -> str:
    """A text that names programs by their files, as in "python jobs/pretrain.py", with what the user types instead."""
    names = {door: name for name, door in DOORS.items()}
    return _NAMED.sub(lambda found: spoken(names[found[1]]), text)
