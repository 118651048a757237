"""`moco-ray`: its list of programs, and what it makes of what is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from moco_ray.cli.main import main
from moco_ray.config.programs import DOORS


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["moco-ray"])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_all_programs_are_listed_with_a_line_each(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(DOORS)
    assert all(line.endswith(".") and len(line) <= 104 for line in lines if line.startswith("  "))


@pytest.mark.parametrize("name", DOORS)
def test_every_program_explains_itself_by_the_name_that_was_typed(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([name, "--help"])
    except SystemExit as end:
        code = end.code  # type: ignore[assignment]
    text = capsys.readouterr().out
    assert code == 0 and f"usage: moco-ray {name} " in text
    assert "jobs/" not in text and "tune/" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian"], "'pretrian' is no program; did you mean moco-ray pretrain? There are pretrain, demo,"),
        (["probe", "runs/a"], "did you mean moco-ray linear-probe?"),
        (["zzz"], "'zzz' is no program; there are pretrain,"),
        (["--preset", "small"], "say first what to do; did you mean moco-ray pretrain --preset …?"),
        (["--print-completion", "csh"], "--print-completion 'csh' is no shell that is known; use bash, fish, zsh"),
        (["--print-completion"], "use bash, fish, zsh"),
    ],
)
def test_a_mistake_is_said_with_what_may_be_meant(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", "").split())


@pytest.mark.parametrize("arguments", [['--data.storage-options={"secret": "s3cret"}'], ['{"secret": "s3cret"}']])
def test_no_secret_is_repeated(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "s3cret" not in "".join(capsys.readouterr())


def test_arguments_and_exit_code_are_those_of_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["linear_probe", "--data.uri", str(tmp_path), "--baselines"]) == 2
    assert "--baselines goes with --fast" in " ".join(capsys.readouterr().err.split())
    assert main(["runs", str(tmp_path)]) == 0
    assert "holds no runs" in capsys.readouterr().out
