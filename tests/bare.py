"""Commands as a user types them: a shell with a PATH, a fresh home folder and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def bare_environment(home: Path, **more: str) -> dict[str, str]:
    """PATH, with this interpreter's programs first as in an activated environment, and a HOME that is made here.

    Args:
        home: A folder of the test's own.
        more: What the user would have exported, such as the keys of a bucket.
    """
    home.mkdir(parents=True, exist_ok=True)
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home), **more}


def run_bare(
    command: str, home: Path, *, folder: Path = ROOT, timeout_s: float = 300, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a shell command in a bare environment, stdout and stderr in one.

    Args:
        command: As a user types it.
        home: Where HOME is made.
        folder: Where the user stands.
        timeout_s: Longest time that it may take.
        more: Further variables.
    """
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=bare_environment(home, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=timeout_s,
        check=False,
    )
