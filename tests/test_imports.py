"""Which package may import which: jobs, tune -> train, evaluate, report -> data -> core -> config."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "config": {"core"},  # where a method is built, and not before: see below
    "core": {"config"},
    "data": {"config", "core"},
    "evaluate": {"config", "core", "data"},
    "report": {"config", "core", "data"},
    "train": {"config", "core", "data", "evaluate", "report"},
    "sweep": {"config", "core", "data", "evaluate", "report", "train"},
}


def imported_modules(file: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file, as an absolute dotted name."""
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / "moco_ray" / package).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_down(package: str) -> None:
    files = files_of(package)
    assert files
    wrong = []
    for file in files:
        for module in imported_modules(file):
            parts = module.split(".")
            if parts[0] == "moco_ray" and parts[1] in MAY_IMPORT and parts[1] not in MAY_IMPORT[package] | {package}:
                wrong.append(f"{file.relative_to(ROOT)} imports {module}")
    assert not wrong


@pytest.mark.parametrize(("package", "allowed"), [("core", []), ("data", ["segments.py", "shared_keys.py"])])
def test_ray_is_imported_only_where_the_stream_needs_it(package: str, allowed: list[str]) -> None:
    wrong = [
        str(file.relative_to(ROOT))
        for file in files_of(package)
        if any(module.split(".")[0] == "ray" for module in imported_modules(file))
        and str(file.relative_to(ROOT / "moco_ray" / package)) not in allowed
    ]
    assert not wrong


def test_entry_points_hold_no_logic() -> None:
    for file in [*(ROOT / "jobs").glob("*.py"), *(ROOT / "tune").glob("*.py")]:
        assert len(file.read_text().splitlines()) <= 50, file.name
        assert all(module.split(".")[0] in ("moco_ray", "sys") for module in imported_modules(file)), file.name


def test_core_imports_nothing_else_of_the_project_but_configurations() -> None:
    for file in files_of("core"):
        own = [module for module in imported_modules(file) if module.split(".")[0] == "moco_ray"]
        assert all(module.startswith(("moco_ray.core", "moco_ray.config")) for module in own), file.name


HEAVY = ("torch", "torchvision", "timm", "ray", "pyarrow", "cv2", "matplotlib", "s3fs", "fsspec", "numpy", "PIL")


def test_configurations_and_presets_are_made_where_nothing_heavy_can_be_imported() -> None:
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({HEAVY}))\n"
        "from moco_ray.config import from_json, to_json\n"
        "from moco_ray.config.presets import PRESETS\n"
        "assert all(from_json(to_json(make())) == make() for make in PRESETS.values())"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


def test_core_runs_where_ray_cannot_be_imported() -> None:
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files_of("core") if file.stem != "__init__"
    ]
    assert "moco_ray.core.step" in modules
    program = "import sys; sys.modules['ray'] = None\n" + "".join(f"import {module}\n" for module in modules)
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


# Ray fixes its mode of authentication when it is imported; a run sets it when it knows which Ray that will be.
BEFORE_RAY = """
import sys
from moco_ray.driver.run import pretrain
from tests.runs import tiny_config

def say(line):
    if line.startswith("results go to"):
        sys.exit("ray" in sys.modules)

pretrain(tiny_config("images", sys.argv[1], num_workers=1), say=say)
"""


def test_a_run_does_not_import_ray_before_it_starts_or_connects(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", BEFORE_RAY, str(tmp_path)], cwd=ROOT, check=True, timeout=120)


LATE = {"torchvision", "timm", "matplotlib", "tensorboard", "boto3", "botocore", "s3fs", "torch._dynamo"}
"""What is imported where a network is built, a picture drawn, a curve written or a bucket opened, and not before."""


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("moco_ray.cli.pretrain", {*HEAVY, "tyro", "rich"}),
        ("moco_ray.cli.sweep", {*HEAVY, "rich"}),
        ("moco_ray.driver.run", {*LATE, "ray"}),
        ("moco_ray.driver.dry_run", {*LATE, "ray"}),
        ("moco_ray.worker.loop", {*LATE, "ray"}),
        ("moco_ray.sweep.sweep", LATE),
        # The controller's and the data tasks' processes start, or start again, before the first step.
        ("moco_ray.cluster.elastic", LATE),
        ("moco_ray.data.segments", {*LATE, "ray"}),
    ],
)
def test_what_takes_seconds_to_import_is_imported_where_it_is_used(module: str, forbidden: set[str]) -> None:
    program = f"import sys, {module}; print(*({forbidden} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120, capture_output=True, text=True
    )
    assert done.stdout.split() == []


SMOKE = """
import sys
from moco_ray.cli.pretrain import main

code = main(sys.argv[1:])
print("imported:", *({NAMES} & sys.modules.keys()))
sys.exit(code)
"""


def test_a_small_run_in_one_process_imports_no_library_that_it_does_not_use(images: Path, tmp_path: Path) -> None:
    names = LATE - {"matplotlib", "tensorboard"} | {"ray", "sympy", "torch.utils.tensorboard"}
    flags = f"--preset smoke --data.uri {images} --run.num-workers 0 --run.storage-path {tmp_path}"
    done = subprocess.run(
        [sys.executable, "-c", SMOKE.replace("{NAMES}", repr(names)), *flags.split()],
        cwd=ROOT,
        check=True,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1].split() == ["imported:"]
