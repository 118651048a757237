"""Cluster files as a user has them: those of the repository, with their placeholders filled in."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
UV = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))  # where `make install` puts it, if nobody has
FILLED_IN = {
    "<SECURITY-GROUP-ID>": "sg-0123456789abcdef0",
    "<IMAGE>": "123456789012.dkr.ecr.us-west-2.amazonaws.com/moco-ray:1",
    "<ROLE-ARN>": "arn:aws:iam::123456789012:role/moco-ray",
    "<BUCKET>": "a-bucket",
}

Check = Callable[..., tuple[int, str]]


def shipped(name: str, *changes: tuple[str, str], fill_in: bool = True) -> str:
    """The text of a file of the repository, with placeholders filled in and parts replaced."""
    text = (REPOSITORY / name).read_text()
    for placeholder, value in FILLED_IN.items() if fill_in else ():
        text = text.replace(placeholder, value)
    for old, new in changes:
        assert old in text, f"{name} no longer has {old!r}"
        text = text.replace(old, new)
    return text


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Run deploy/check.py on a text, in the project's folder, as someone who has made a token.

    The function that tests get returns the exit code and what was printed.
    """
    token = tmp_path / "home" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.write_text("a-token")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.syspath_prepend(REPOSITORY / "deploy")
    main = __import__("check").main

    def run(text: str) -> tuple[int, str]:
        path = tmp_path / "file.yaml"
        path.write_text(text)
        code = main([str(path)])
        return code, capsys.readouterr().out

    return run


def check_command(*arguments: str) -> list[str]:
    """The command line of the check."""
    return [sys.executable, str(REPOSITORY / "deploy" / "check.py"), *arguments]
