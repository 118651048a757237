"""A run on a disk that fills up: a real small file system, mounted for one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moco_ray.driver.run import pretrain
from tests.runs import digests, losses, tiny_config

ROOT = Path(__file__).parents[2]
# Three runs of one name on a disk of its own, which is full once the second and the third train, and free again after
# two complaints of the third.
PROGRAM = """
import json, sys
from pathlib import Path
from moco_ray.config.patience import Patience
from moco_ray.driver.run import pretrain
from tests.runs import tiny_config
images, disk = sys.argv[1], Path(sys.argv[2])
ballast = disk / "ballast"

def fill():
    with ballast.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return

def run(steps, patience_s, on_line=lambda line, said: None):
    said = []
    def say(line):
        said.append(line)
        on_line(line, said)
    config = tiny_config(images, disk, max_steps=steps, checkpoint_every_steps=3, log_every_steps=3)
    try:
        pretrain(config, say=say, patience=Patience(finish=patience_s))
    except OSError as error:
        return said, str(error)
    return said, ""

def fill_it(line, said):
    if "training from step 3 " in line:
        fill()

def fill_and_free_it(line, said):
    fill_it(line, said)
    if sum("no space left" in line for line in said) == 2:
        ballast.unlink(missing_ok=True)

first = run(3, 60)
full = run(9, 1, fill_it)
whole = sorted(path.parent.name for path in disk.glob("run/checkpoint_*/COMMITTED"))
ballast.unlink()
freed = run(9, 60, fill_and_free_it)
scraps = [str(path) for path in disk.rglob(".*")]
lines = (disk / "run" / "metrics.jsonl").read_text()
print(json.dumps({"first": first, "full": full, "whole": whole, "freed": freed, "scraps": scraps, "lines": lines}))
"""


def _on_small_disk(images: Path, disk: Path) -> dict[str, Any]:
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=64m none '{disk}'"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount a file system")
    command = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    command += [sys.executable, "-c", PROGRAM, str(images), str(disk)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_full_disk_costs_no_checkpoint_and_no_step(images: Path, tmp_path: Path) -> None:
    undisturbed = Path(pretrain(tiny_config(images, tmp_path / "runs", max_steps=9), say=lambda line: None).folder)
    found = _on_small_disk(images, tmp_path / "disk")
    assert found["first"][1] == ""
    said, error = found["full"]
    assert any("no space left" in line and f"{tmp_path}/disk/run" in line for line in said)
    assert any("no space left" in line and "while training goes on" in line for line in said)
    assert "no space left" in error and "same command resumes" in error
    assert found["whole"] == ["checkpoint_000000003"]
    said, error = found["freed"]
    assert error == "" and any("training from step 3 " in line for line in said)
    assert sum("no space left" in line for line in said) >= 2
    lines = [json.loads(line) for line in found["lines"].splitlines()]
    assert [line["rows_digest"] for line in lines] == digests(undisturbed)
    np.testing.assert_allclose([line["train/loss"] for line in lines], losses(undisturbed), rtol=1e-9)
    assert found["scraps"] == []
