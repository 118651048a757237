"""Commands whose output goes nowhere: into a pipe that nobody reads, a closed descriptor, a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bare import ROOT
from tests.runs import write_images

_SMOKE = "jobs/pretrain.py --preset smoke --run.num-workers 0"


def _ended(command: str, redirected: str) -> tuple[int, str]:
    """Exit code of a command in a shell, and what it said on standard error."""
    script = f"set -o pipefail; {sys.executable} {command} {redirected}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "command",
    [f"{_SMOKE} --help", f"{_SMOKE} --list-presets", f"{_SMOKE} --dry-run --data.uri {{}}", "tune/sweep.py --help"],
)
def test_what_is_only_said_ends_quietly_with_its_reader(command: str, tmp_path: Path) -> None:
    images = write_images(tmp_path, 24) if "{}" in command else ""
    assert _ended(command.format(images), "| true") == (141, "")


@pytest.mark.parametrize(
    ("redirected", "said"), [("| head -n 2", "Broken pipe"), ("> /dev/full", "No space left"), (">&-", "")]
)
def test_a_run_goes_on_to_its_end_unheard(redirected: str, said: str, tmp_path: Path) -> None:
    images = write_images(tmp_path, 24)
    command = f"{_SMOKE} --data.uri {images} --run.storage-path {tmp_path}/runs --run.name a"
    code, error = _ended(command, redirected)
    assert code == 0 and (tmp_path / "runs" / "a" / "encoder.safetensors").exists()
    assert error.count("the command goes on") == (1 if said else 0) and said in error
    assert "Traceback" not in error


def test_what_cannot_be_said_is_an_error_where_it_was_all(tmp_path: Path) -> None:
    code, error = _ended(f"{_SMOKE} --dry-run --data.uri {write_images(tmp_path, 24)}", "> /dev/full")
    assert code == 1 and error.count("No space left") == 1 and "Traceback" not in error


@pytest.mark.parametrize("command", [f"{_SMOKE} --help", f"{_SMOKE} --oops"])
@pytest.mark.parametrize("redirected", [">&-", ">&- 2>&-", "2>&-"])
def test_closed_output_is_no_error(command: str, redirected: str) -> None:
    code, error = _ended(command, redirected)
    assert code == (2 if "oops" in command else 0) and "Traceback" not in error
