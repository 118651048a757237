"""deploy/runtime_env.yaml: what nodes need that hold only Ray, torch and torchvision."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from moco_ray.config import to_json
from tests.cluster.deployed import REPOSITORY, UV
from tests.cluster.heads import head
from tests.runs import metrics, tiny_config

FILE = "deploy/runtime_env.yaml"
ON_NODES = ["ray[default,train,tune]", "torch", "torchvision"]


def normal(name: str) -> str:
    """The one spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(requirements: list[str]) -> set[str]:
    """Names of all distributions that these need, themselves included."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        for extra in {*requirement.extras, ""}:
            if (key := (normal(requirement.name), extra)) in found:
                continue
            found.add(key)
            further = [Requirement(text) for text in importlib.metadata.requires(requirement.name) or ()]
            waiting += [one for one in further if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def test_lists_what_ray_and_torch_do_not_bring_at_the_pinned_versions() -> None:
    listed = yaml.safe_load((REPOSITORY / FILE).read_text())["pip"]["packages"]
    pinned = (REPOSITORY / "constraints.txt").read_text().split()
    assert set(listed) <= set(pinned)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    assert [line.split("==")[0] for line in listed] == sorted(needed(project) - needed(ON_NODES))


def plain_python(folder: Path) -> Path:
    """A Python outside any virtual environment, as container images have it, with only what all nodes have."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    prefix = Path(sys.base_prefix)
    shutil.copytree(
        stdlib,
        folder / stdlib.relative_to(prefix),
        symlinks=True,
        ignore=shutil.ignore_patterns("site-packages", "dist-packages", "test", "config-*"),
    )
    for library in (prefix / "lib").glob("libpython3*"):
        shutil.copy(library, folder / "lib")
    python = folder / "bin" / "python"
    python.parent.mkdir()
    shutil.copy(Path(sys.executable).resolve(), python)
    install = [UV, "pip", "install", "--quiet", "--break-system-packages", "--python", str(python)]
    subprocess.run([*install, "--constraint", str(REPOSITORY / "constraints.txt"), *ON_NODES], check=True)
    return python


@pytest.mark.slow
def test_nodes_with_only_ray_and_torch_run_a_job(images: Path, tmp_path: Path) -> None:
    python = plain_python(tmp_path / "node")
    assert subprocess.run([str(python), "-c", "import timm"], capture_output=True).returncode == 1
    preset = tmp_path / "config.json"
    preset.write_text(to_json(tiny_config(images, tmp_path, num_workers=1, max_steps=2)))
    with head(tmp_path, python) as cluster:
        submitted = cluster.submit(
            "plain", "--preset", str(preset), "--run.name", "run", options=("--runtime-env", FILE)
        )
    assert submitted.returncode == 0 and "done: 2 steps" in submitted.stdout, submitted.stdout
    assert [line["step"] for line in metrics(tmp_path / "run")] == [0, 1]
