"""What `make package` builds: it holds what it should, and works where there is nothing else of the repository."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import moco_ray
from tests.bare import ROOT, run_bare
from tests.cluster.deployed import UV

pytestmark = pytest.mark.slow
VERSION = moco_ray.__version__
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MADE = {"PKG-INFO", "setup.cfg"}  # by setuptools, in a source distribution


def build(source: Path, target: Path, *options: str) -> Path:
    """Build what is in a folder, with the setuptools that is installed."""
    build_here = ["--no-build-isolation", "--offline", "--python", sys.executable]
    command = [UV, "build", "--quiet", *build_here, *options, "--out-dir", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def names_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """What git knows of the repository."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is no git repository")
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both distributions, built from a copy with what a developer's folder has besides."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in [
        *tracked,
        "runs/run/checkpoint_1/state.pt",
        ".venv/bin/python",
        "data/image.png",
        "moco_ray/core/x.pyc",
    ]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if name in tracked:
            shutil.copy(ROOT / name, source / name)
        else:
            (source / name).write_text("not to be given away")
    return build(source, target)


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return built / f"moco_ray-{VERSION}-py3-none-any.whl"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path, tracked: list[str]) -> None:
    package = {name for name in tracked if name.startswith("moco_ray/")}
    assert "moco_ray/py.typed" in package
    assert {name for name in names_of(wheel) if ".dist-info/" not in name} == package


def test_the_source_distribution_holds_what_git_knows(built: Path, tracked: list[str]) -> None:
    with tarfile.open(built / f"moco_ray-{VERSION}.tar.gz") as file:
        names = {member.name.partition("/")[2] for member in file if member.isfile()}
    assert {name for name in names if not name.startswith("moco_ray.egg-info/")} - MADE == set(tracked)


def test_the_metadata_say_what_it_is_and_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        text = file.read(f"moco_ray-{VERSION}.dist-info/METADATA").decode()
        entry_points = file.read(f"moco_ray-{VERSION}.dist-info/entry_points.txt").decode()
    metadata = email.message_from_string(text)
    assert (metadata["Name"], metadata["Version"], metadata["License-Expression"]) == (
        "moco_ray",
        VERSION,
        "Apache-2.0",
    )
    assert metadata["Description-Content-Type"] == "text/markdown" and metadata.get_payload().startswith("# moco_ray\n")  # type: ignore[union-attr]
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    assert entry_points.split("\n")[:2] == ["[console_scripts]", "moco-ray = moco_ray.cli.main:main"]


def test_the_image_builds_the_same_wheel_from_what_it_copies(wheel: Path, tmp_path: Path) -> None:
    stage = re.split("^FROM ", (ROOT / "deploy/Dockerfile").read_text(), flags=re.MULTILINE)[1]
    for line in stage.splitlines():
        if line.startswith("COPY "):
            *names, target = line.split()[1:]
            for name in names:
                place = tmp_path / "src" / target / ("" if (ROOT / name).is_dir() else name)
                (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, _made(place))
    assert "RUN uv build --wheel --out-dir /wheel ." in stage
    made = build(tmp_path / "src", tmp_path / "wheel", "--wheel")
    assert {name for name in names_of(made / wheel.name) if "__pycache__" not in name} == names_of(wheel)


def _made(place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has the wheel, and the dependencies that are installed here."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    python = folder / "bin" / "python"
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # Paths that a .pth file names are not searched for such files: what makes moco_ray importable here is left behind.
    (own / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    install = [UV, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", str(python), str(wheel)]
    subprocess.run(install, check=True, timeout=120)
    return folder / "bin"


def test_an_installed_wheel_works_away_from_the_repository(installed: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(32):
        pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(_made(tmp_path / "images" / f"{number}.png"))

    def run(command: str) -> str:
        done = run_bare(command, tmp_path / "home", folder=tmp_path, PATH=f"{installed}:/usr/bin:/bin", timeout_s=200)
        assert done.returncode == 0 and "Traceback" not in done.stdout, done.stdout
        return done.stdout

    assert run("python -c 'import moco_ray; print(moco_ray.__file__)'").startswith(str(installed.parent))
    assert "linear-probe" in run("moco-ray --help")
    assert run("moco-ray --version") == f"moco_ray {VERSION}\n"
    assert "usage: python -m moco_ray pretrain " in run("python -m moco_ray pretrain --help")
    said = run("moco-ray pretrain --preset smoke --data.uri images --run.name a --run.num-workers 0 --run.max-steps 2")
    assert "to resume it: moco-ray pretrain --preset smoke --data.uri images" in said and "done: 2 steps" in said
    assert (tmp_path / "runs/a/encoder.safetensors").is_file()
    assert "a" in run("moco-ray runs runs").split()
    assert run("source <(moco-ray --print-completion bash); complete -p moco-ray").endswith(" moco-ray\n")
