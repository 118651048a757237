"""Commands are said as the user came in."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from moco_ray.config.programs import DOORS, as_typed, program, spoken

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("jobs/pretrain.py", "python jobs/export.py"),
        ("tune/sweep.py", "python jobs/export.py"),
        ("./jobs/linear_probe.py", "python ./jobs/export.py"),
        ("/home/ray/moco_ray/jobs/pretrain.py", "python /home/ray/moco_ray/jobs/export.py"),
        ("/usr/lib/moco_ray/__main__.py", "python -m moco_ray export"),
        ("/nowhere on the path/bin/moco-ray", "'/nowhere on the path/bin/moco-ray' export"),
        ("moco-ray", "moco-ray export"),
        ("-c", "moco-ray export"),  # from Python
        ("/my/notjobs/pretrain.py", "moco-ray export"),
    ],
)
def test_other_programs_are_named_as_this_one_was(typed: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [typed])
    assert spoken("export") == words


def test_what_is_on_the_path_is_named_without_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "moco-ray"
    installed.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(installed)])
    assert program("sweep") == ["moco-ray", "sweep"]


def test_texts_that_name_files_name_what_the_user_types(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Command: python jobs/linear_probe.py RUN; every flag of jobs/pretrain.py"
    monkeypatch.setattr(sys, "argv", ["moco-ray"])
    assert as_typed(text) == "Command: moco-ray linear-probe RUN; every flag of moco-ray pretrain"
    monkeypatch.setattr(sys, "argv", ["jobs/detect.py"])
    assert as_typed(text) == "Command: python jobs/linear_probe.py RUN; every flag of python jobs/pretrain.py"


def test_no_message_names_a_file_where_the_user_may_have_none() -> None:
    """Documentation of modules, functions and fields may, which --help shows through `as_typed`."""
    wrong = []
    for file in sorted((ROOT / "moco_ray").rglob("*.py")):
        tree = ast.parse(file.read_text())
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        wrong += [
            f"{file.relative_to(ROOT)}:{node.lineno}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
            if re.search(r"\b(jobs|tune)/\w+\.py", node.value) and file.name != "programs.py"
        ]
    assert not wrong


def test_every_file_that_a_user_starts_is_a_program() -> None:
    files = [*(ROOT / "jobs").glob("*.py"), *(ROOT / "tune").glob("*.py")]
    assert sorted(DOORS.values()) == sorted(str(file.relative_to(ROOT)) for file in files)
