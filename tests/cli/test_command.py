"""The command that a run says resumes it, as a shell takes it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from moco_ray.cli.command import again, resume_command, run_command
from moco_ray.cli.pretrain import main, parse
from moco_ray.cli.sweep import split


def _said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The command in the line of a run that begins, and then finds no images."""
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().out.splitlines() if "; to resume it: " in line]
    assert len(lines) == 1
    return lines[0].split("; to resume it: ")[1]


@pytest.mark.parametrize(
    "flags",
    [
        ["--run.name", "my run"],
        ["--run.name", "it's 100 % {new}; $HOME"],
        ["--run.name", "plain", "--views.jitter", "0.4,0.4,0.2,0.1", "--method.symmetric", "--optim.lr", "=", "0.1"],
        ["--run.name=-dash", "--data.label-column=-label", "--views.no-grayscale-first"],
        ["--method", "simclr", "--method.temperature", "0.2", "--run.max-steps", "none"],
    ],
)
def test_the_command_makes_the_same_run_in_a_shell(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = tmp_path / "no images"
    base = ["--preset", "smoke", "--run.num-workers", "0", "--run.storage-path", str(tmp_path / "runs")]
    arguments = [*base, "--data.uri", str(uri), *flags]
    words = shlex.split(_said(arguments, capsys))
    assert words[:2] == ["moco-ray", "pretrain"]
    config, resumed = parse(arguments).config, parse(words[2:]).config
    name = config.run.name or resumed.run.name
    assert name and resumed == replace(config, run=replace(config.run, name=name))


def test_the_command_holds_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--preset",
        "smoke",
        "--run.num-workers",
        "0",
        "--data.uri",
        str(tmp_path / "nowhere"),
        "--run.name",
        "a",
    ]
    options = '{"key": "the-secret"}'
    command = _said([*arguments, f"--data.storage-options={options}", "--run.storage_options", options], capsys)
    assert "the-secret" not in command and command.endswith(" --run.name a (and the same storage options)")


def test_what_belongs_to_one_start_alone_is_left_out() -> None:
    given = split("--preset small --dry-run --run.name n --num-samples 3 --optim.lr=-1".split())[1]
    assert again(given) == ["--preset", "small", "--optim.lr=-1"]


DOOR, INSTALLED = "jobs/pretrain.py", "moco-ray"
IN_FOLDER = {"working_dir": "gcs://_ray_pkg_1.zip"}
INSTALLS = {**IN_FOLDER, "pip": {"packages": ["timm"]}}


@pytest.mark.parametrize(
    ("typed", "environment", "command"),
    [
        (DOOR, {}, "ray job submit -- python jobs/pretrain.py --run.name {name}"),
        (
            DOOR,
            {**IN_FOLDER, "env_vars": {"A": "b"}},
            "ray job submit --working-dir . -- python jobs/pretrain.py --run.name {name}",
        ),
        (
            DOOR,
            INSTALLS,
            "ray job submit --working-dir . --runtime-env deploy/runtime_env.yaml -- python jobs/pretrain.py --run.name {name}",
        ),
        ("/home/a/jobs/pretrain.py", {}, "ray job submit -- python /home/a/jobs/pretrain.py --run.name {name}"),
        (INSTALLED, {}, "ray job submit -- moco-ray pretrain --run.name {name}"),
        (INSTALLED, IN_FOLDER, "ray job submit --working-dir . -- moco-ray pretrain --run.name {name}"),
        (
            INSTALLED,
            INSTALLS,
            "ray job submit --working-dir . -- moco-ray pretrain --run.name {name} (and the same runtime environment)",
        ),
    ],
)
def test_a_submitted_run_is_submitted_again(
    typed: str, environment: dict[str, object], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray's job supervisor tells the command that it starts; tests/cluster/test_jobs.py has a real one."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": environment, "metadata": {}}))
    monkeypatch.setattr(sys, "argv", [typed])
    assert resume_command("pretrain", [], [], None) == command


def test_a_name_that_no_terminal_can_show_is_no_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--preset", "smoke", "--run.num-workers", "0", "--data.uri", f"{tmp_path}/\udce9", "--dry-run"]) == 2
    assert f"images file-bytes://{tmp_path}/%E9\n" in capfd.readouterr().out


@pytest.mark.parametrize(("flags", "is_named"), [(["--dry-run"], False), ([], True), (["--run.name", "a"], True)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_speaks_of_the_command_at_the_top_only_where_there_is_one(
    flags: list[str], is_named: bool, number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never answers
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}/images/"
        threading.Thread(target=lambda: (silent.accept(), os.kill(os.getpid(), number)), daemon=True).start()
        base = ["--preset", "smoke", "--run.num-workers", "0", "--run.storage-path", str(tmp_path / "runs")]
        assert main([*base, "--data.uri", uri, *flags]) == 128 + number
    said = " ".join(capsys.readouterr().err.replace("│", "").split())
    assert " stopped" in said and ("the command at the top resumes" in said) is is_named


def test_a_stop_before_a_run_is_only_a_stop(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}/config.json"
        threading.Thread(target=lambda: (silent.accept(), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
        assert main(["--preset", uri, "--data.uri", "images"]) == 143
    assert "the command at the top" not in capsys.readouterr().err


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert main(["--preset", "smoke"]) == 2
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_hangup_that_comes_twice_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGHUP)  # while what there is is put in order
            print("in order")
            raise

    assert run_command(work, stopped="stopped") == 129
    said = capsys.readouterr()
    assert said.out == "in order\n" and "stopped" in said.err
