"""Fences: imports run downwards, Ray stays where it may break, and what is slow to import is imported late."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STOREYS = (
    *("cli", "web", "sweep", "driver", "cluster", "worker", "tasks", "report"),
    *("evaluate", "weights", "run_folder", "data", "storage", "core", "config"),
)
"""Packages of moco_ray: each may import those after it."""


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


def test_every_package_has_a_storey() -> None:
    found = {folder.name for folder in (ROOT / "moco_ray").iterdir() if (folder / "__init__.py").exists()}
    assert found == set(STOREYS)
    assert {file.name for file in (ROOT / "moco_ray").glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("package", STOREYS)
def test_imports_run_downwards(package: str) -> None:
    above = set(STOREYS[: STOREYS.index(package)])
    if package == "config":
        above -= {"core"}  # where a method is built, and not before: see below
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in files_of(package)
        for module in imported_modules(file)
        if module.startswith("moco_ray.") and module.split(".")[1] in above
    ]
    assert not wrong


def imports_of_ray(*, public: bool) -> Iterator[tuple[str, str]]:
    """Each file, by its path in moco_ray/, with what of Ray it imports or names that its documentation has, or has not."""
    for file in sorted((ROOT / "moco_ray").rglob("*.py")):
        tree = ast.parse(file.read_text())
        names = {module for module in imported_modules(file) if module.split(".")[0] == "ray"}
        names |= {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for name in sorted(names):
            parts = name.split(".")
            if parts[0] == "ray" and public != any(
                part.startswith("_") or part in ("v2", "core", "experimental", "sdk") for part in parts
            ):
                yield str(file.relative_to(ROOT / "moco_ray")), name


RAY = {"cluster", "sweep"}
"""Packages that import Ray."""


def test_ray_is_imported_in_cluster_and_by_two_files_of_the_sweep() -> None:
    files = {file for file, _ in [*imports_of_ray(public=True), *imports_of_ray(public=False)]}
    assert {file.split("/")[0] for file in files} == RAY
    assert {file for file in files if file.startswith("sweep")} == {"sweep/tune.py", "sweep/trial.py"}


def test_names_of_ray_that_a_release_may_break_stand_in_cluster() -> None:
    wrong = [f"{file}: {name}" for file, name in imports_of_ray(public=False) if not file.startswith("cluster/")]
    assert not wrong


def test_entry_points_hold_no_logic() -> None:
    for file in [*(ROOT / "jobs").glob("*.py"), *(ROOT / "tune").glob("*.py")]:
        assert len(file.read_text().splitlines()) <= 50, file.name
        assert all(module.split(".")[0] in ("moco_ray", "sys") for module in imported_modules(file)), file.name


OF_A_TASK = (
    "core.encoders",
    "core.method",
    "core.step.",
    "core.info_nce",
    "evaluate",
    "weights",
    "tasks.pretraining",
    "tasks.supervised",
    "tasks.method_learner",
    "core.classifier",
)
"""What is of pretraining: a worker trains whatever a task builds."""


def test_a_worker_knows_no_encoder() -> None:
    wrong = [
        f"{file.name} imports {module}"
        for file in [*files_of("worker"), *files_of("cluster")]
        for module in imported_modules(file)
        if f"{module}.".removeprefix("moco_ray.").startswith(OF_A_TASK)
    ]
    assert not wrong


MOST_LINES, MOST_LINES_OF_A_FUNCTION, MEDIAN_LINES = 300, 60, 110


def test_files_and_functions_stay_short() -> None:
    files = sorted((ROOT / "moco_ray").rglob("*.py"))
    sizes = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in files}
    assert [file for file, size in sizes.items() if size > MOST_LINES] == []
    assert statistics.median(size for size in sizes.values() if size > 1) < MEDIAN_LINES
    functions = [
        (f"{file.relative_to(ROOT)}: {node.name}", node.end_lineno - node.lineno + 1)
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    ]
    assert [name for name, size in functions if size > MOST_LINES_OF_A_FUNCTION] == []


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
        "from moco_ray.config.transfer_presets import FINETUNE_PRESETS, LINEAR_PRESETS\n"
        "makers = [*PRESETS.values(), *LINEAR_PRESETS.values(), *FINETUNE_PRESETS.values()]\n"
        "assert all(from_json(to_json(make())) == make() for make in makers)"
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


LATE = {
    "torchvision",
    "timm",
    "matplotlib",
    "tensorboard",
    "mlflow",
    "trackio",
    "wandb",
    "boto3",
    "botocore",
    "s3fs",
    "torch._dynamo",
}
"""What is imported where a network is built, a picture drawn, a curve written or a bucket opened, and not before."""


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("moco_ray.cli.main", {*HEAVY, "tyro", "rich"}),
        ("moco_ray.cli.pretrain", {*HEAVY, "tyro", "rich"}),
        ("moco_ray.cli.sweep", {*HEAVY, "rich"}),
        ("moco_ray.cli.runs", HEAVY),
        ("moco_ray.run_folder.summary", {*LATE, "ray", "torch"}),
        ("moco_ray.web.server", {*LATE, "ray", "torch"}),
        ("moco_ray.cli.transfer", {*HEAVY, "tyro", "rich"}),
        ("moco_ray.cli.linear_probe", {*HEAVY, "tyro", "rich"}),
        ("moco_ray.cli.finetune", {*HEAVY, "tyro", "rich"}),
        ("moco_ray.driver.run", {*LATE, "ray"}),
        ("moco_ray.driver.dry_run", {*LATE, "ray"}),
        ("moco_ray.tasks.supervised", {*LATE, "ray", "sklearn", "torchmetrics"}),
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
    names = LATE - {"matplotlib", "tensorboard", "boto3", "botocore"} | {"ray", "sympy"}  # TensorBoard brings boto3
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
