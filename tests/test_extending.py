"""docs/extending.md: what it shows is run in a copy of the package, as a reader would put it there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    """A copy of the program with the method's two files, its union member and its preset."""
    for part in ("moco_ray", "jobs"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    fields, algorithm, union, preset = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), flags=re.DOTALL
    )
    (tmp_path / "moco_ray/config/methods/byol.py").write_text(fields)
    (tmp_path / "moco_ray/core/methods/byol.py").write_text(algorithm)
    methods, presets = tmp_path / "moco_ray/config/methods/__init__.py", tmp_path / "moco_ray/config/presets.py"
    imported, member = union.strip().split("\n\n")
    text = re.sub(r"^AnyMethod = .*$", member, methods.read_text(), flags=re.MULTILINE)
    methods.write_text(
        text.replace("from moco_ray.config.methods.end_to_end", f"{imported}\nfrom moco_ray.config.methods.end_to_end")
    )
    text = presets.read_text().replace(
        "\nPRESETS = {", f'\n{imported}\n\n\n{preset}\n\nPRESETS = {{\n    "byol": byol,'
    )
    presets.write_text(text)
    return tmp_path


@pytest.mark.slow
def test_the_documents_method_trains_evaluates_and_resumes(extended: Path, images: Path) -> None:
    flags = (
        "--preset byol --model.arch tiny_resnet --model.hidden-dim 32 --optim.global-batch-size 16 --views.crop-px 32"
    )
    run = f"--run.num-workers 0 --run.name run --run.storage-path {extended}/runs --data.uri {images}"
    command = [sys.executable, "jobs/pretrain.py", *flags.split(), *run.split(), "--method.encoder-momentum", "0.99"]
    for steps in (2, 4):
        done = subprocess.run(
            [*command, "--run.max-steps", str(steps)],
            cwd=extended,
            env={**os.environ, "PYTHONPATH": str(extended)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert len((extended / "runs/run/metrics.jsonl").read_text().splitlines()) == 4
    assert '"name": "byol"' in (extended / "runs/run/config.json").read_text()
