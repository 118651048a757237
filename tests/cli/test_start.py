"""How soon a command answers, in CPU time, in a shell that has nothing but PATH and a home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import moco_ray
from tests.bare import ROOT, bare_environment

SOON_S = 1.5  # torch alone takes longer
AT_ONCE_S = 1.0

ANSWERS = [
    ("jobs/pretrain.py --help", 0, "--optim.global-batch-size"),
    ("jobs/pretrain.py --help --preset moco-v3-vit-small --method simclr", 0, "(default: 0.1)"),
    ("jobs/pretrain.py --list-presets", 0, "moco-v2"),
    ("tune/sweep.py --help", 0, "--num-samples"),
    ("jobs/pretrain.py --preset smal --data.uri x", 2, "did you mean small"),
    ("jobs/pretrain.py --optim.lrr 1", 2, "did you mean --optim.lr"),
    ("tune/sweep.py --preset small --num-sample 3", 2, "did you mean --num-samples"),
    ("jobs/pretrain.py --preset small --optim.global-batch-size 0 --data.uri x", 2, "use a batch of 8 or more"),
    ("jobs/pretrain.py --preset small", 2, "data.uri is missing"),
    ("tune/sweep.py --preset small", 2, "data.uri is missing"),
    ("-m moco_ray", 0, "Train a linear classifier"),
    ("-m moco_ray --version", 0, f"moco_ray {moco_ray.__version__}"),
    ("-m moco_ray pretrian --preset small", 2, "did you mean python -m moco_ray pretrain"),
    ("-m moco_ray pretrain --help", 0, "usage: python -m moco_ray pretrain"),
    ("-m moco_ray demo --help", 0, "--run.storage-path"),
]


@pytest.mark.parametrize(("command", "code", "text"), ANSWERS)
def test_help_and_mistakes_take_no_time(command: str, code: int, text: str, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *command.split()],
            cwd=ROOT,
            env=bare_environment(tmp_path / "home"),
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    said = output.read_text()
    assert process.returncode == code, said
    assert text in " ".join(said.split()) and "Traceback" not in said, said
    assert usage.ru_utime + usage.ru_stime < SOON_S, said


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("jobs/pretrain.py --preset small", "moco_ray: preset small, images {uri}\n"),
        ("jobs/pretrain.py --preset smoke --dry-run", "moco_ray: dry run, preset smoke, images {uri}\n"),
        ("tune/sweep.py --preset small", "moco_ray: sweep, preset small, images {uri}\n"),
    ],
)
def test_a_run_says_at_once_what_it_is(command: str, line: str, tmp_path: Path) -> None:
    uri = tmp_path / "nowhere"
    with subprocess.Popen(
        [sys.executable, *command.split(), "--data.uri", str(uri), "--run.storage-path", str(tmp_path / "runs")],
        cwd=ROOT,
        env=bare_environment(tmp_path / "home"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            times = psutil.Process(process.pid).cpu_times()
        finally:
            process.kill()
    assert said == line.format(uri=uri)
    assert times.user + times.system < AT_ONCE_S
