"""`--serve` as it is typed: in a process of its own, until it is stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moco_ray.cli.runs import main
from moco_ray.web.server import listen
from tests.serving.folders import write_run

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def _running(*flags: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and the address that it prints."""
    kept = {name: value for name, value in os.environ.items() if name not in ("MOCO_RAY_TOKEN", "SSH_CONNECTION")}
    process = subprocess.Popen(
        [sys.executable, "jobs/runs.py", *flags, "--serve"],
        cwd=ROOT,
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"http://\S+", line)
        assert match, (line, process.stderr and process.stderr.read())
        yield process, match[0]
    finally:
        process.kill()
        process.communicate()


def _page(address: str) -> str:
    return str(urllib.request.urlopen(address, timeout=20).read().decode())


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_it_serves_until_it_is_stopped(tmp_path: Path, number: signal.Signals, code: int) -> None:
    write_run(tmp_path, "a run")
    with _running(str(tmp_path), "--port", "0") as (process, address):
        assert address.startswith("http://127.0.0.1:") and "token" not in address
        assert "a run" in _page(address)
        begun = time.monotonic()
        process.send_signal(number)
        out, error = process.communicate(timeout=20)
        assert process.returncode == code and time.monotonic() - begun < 5
        assert "the page is closed" in error and "Traceback" not in error + out


@pytest.mark.slow
def test_an_address_for_others_has_a_token_and_a_remote_shell_is_told_the_way(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    with _running(str(tmp_path), "--port", "0", "--host", "0.0.0.0") as (process, address):
        assert process.stdout is not None and "not encrypted" in process.stdout.readline()
        local = re.sub(r"//[^:]+:", "//127.0.0.1:", address)
        assert (
            "?token=" in address
            and 'value="a"'
            in urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(local, timeout=20).read().decode()
        )
        with pytest.raises(urllib.error.HTTPError, match="403"):
            _page(local.partition("?")[0])
    with _running(str(tmp_path), "--port", "0", SSH_CONNECTION="10.0.0.9 5000 10.0.0.1 22") as (process, address):
        assert process.stdout is not None
        port = address.rsplit(":", 1)[1].strip("/")
        assert f"ssh -L {port}:localhost:{port} 10.0.0.1" in process.stdout.readline()


def test_mistakes_are_one_message_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as sock:
        taken = str(sock.getsockname()[1])
        for flags, message in (
            ([str(tmp_path / "nowhere"), "--serve", "--port", "0"], "there is no such folder"),
            ([str(tmp_path), "--serve", "--prune"], "drop --prune"),
            ([str(tmp_path), "--port", "8080"], "--port is where --serve listens"),
            ([str(tmp_path), "--serve", "--port", taken], f"port {taken} of 127.0.0.1 is taken"),
            ([str(tmp_path), "--serve", "--port", "-1"], "no port"),
            ([str(tmp_path), "--serve", "--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
        ):
            assert main(flags) == 2, flags
            error = " ".join(capsys.readouterr().err.replace("│", " ").split())
            assert message in error, error


@pytest.mark.slow
def test_help_and_the_table_import_no_web_library(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    program = (
        "import sys\nfrom moco_ray.cli.runs import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print('imported:', *({'aiohttp', 'jinja2', 'moco_ray.web'} & sys.modules.keys()))"
    )
    for flags in (["--help"], [str(tmp_path)]):
        done = subprocess.run(
            [sys.executable, "-c", program, *flags], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
        )
        # s3fs, where storage is opened, is aiohttp's tenant, too: only --help is free of it.
        names = set(done.stdout.splitlines()[-1].split()[1:])
        assert names <= (set() if flags == ["--help"] else {"aiohttp"}), names
