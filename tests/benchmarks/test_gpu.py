"""The command that asks a GPU everything runs to its end on a CPU, and its figures can be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu import SECTIONS

ROOT = Path(__file__).parents[2]


def test_all_sections_run_in_small_on_a_cpu(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "all", "--tiny", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())
    assert found["device"] and found["versions"]["torch"]
    assert len(found["rows"]) > 25 and all(row["pass"] for row in found["rows"])
    assert all(f"{name} ..." in done.stdout for name in SECTIONS)


def test_without_a_gpu_it_says_what_can_be_done() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 2 and "--tiny" in done.stderr


def test_it_needs_neither_ray_nor_what_reads_storage() -> None:
    code = (
        "import sys\n"
        "for name in ('ray', 'tyro', 's3fs', 'simplejpeg', 'optuna'): sys.modules[name] = None\n"
        "import benchmarks.gpu, benchmarks.step, moco_ray.data.views, moco_ray.core.step\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=100)
