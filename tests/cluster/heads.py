"""A real head of a cluster with a token of its own, and Ray's command line as a user of it calls it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.cluster.deployed import REPOSITORY
from tests.cluster.nodes import STORE_BYTES

PORTS = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port", "metrics-export-port")
_START_PATIENCE_S = 180.0
_NEEDED_FOR_JOBS = ("dashboard-port", "dashboard-agent-listen-port")


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head that runs."""

    environment: Mapping[str, str]
    """What whoever may use it has exported, the token among it."""
    bin: Path
    """The folder with the head's `ray` and `python`."""
    temp: Path
    """Ray's folder for sessions."""
    port: int
    """Where nodes join it."""

    def ray(self, *arguments: str, timeout_s: float = 300, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run `ray`, with stdout and stderr in one; changes are to the environment."""
        return subprocess.run(
            [str(self.bin / "ray"), *arguments],
            env={**self.environment, **changes},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )

    def submit(self, job: str, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Submit the repository's pretraining as a job of this name, again while the head has not started wholly."""
        command = ("python", "jobs/pretrain.py", *arguments)
        deadline = time.monotonic() + _START_PATIENCE_S
        while True:
            done = self.ray("job", "submit", "--submission-id", job, "--working-dir", ".", *options, "--", *command)
            if "No available agent to submit job, please try again later" not in done.stdout:
                return done
            assert time.monotonic() < deadline, done.stdout

    def status(self, job: str) -> str:
        """A job's status, in one word."""
        output = self.ray("job", "status", job).stdout
        found = re.search(r"Job '[^']*' (?:was )?(stopped|failed|succeeded)|Status for job '[^']*': (\w+)", output)
        assert found, output
        return (found[1] or found[2]).upper()

    def log(self, job: str) -> str:
        """All that a job has printed."""
        return self.ray("job", "logs", job).stdout


def wait_until(what: Callable[[], bool], say: Callable[[], str], timeout_s: float = 120.0) -> None:
    """Wait until something holds; say what there was instead, if it never does."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, say()
        time.sleep(0.1)


@contextmanager
def head(folder: Path, python: Path | None = None, num_cpus: int = 2, **environment: str) -> Iterator[Head]:
    """Start a head of one node on free ports, the dashboard on the loopback interface; kill all of it at the end.

    Args:
        folder: For the token, the home folder and the log.
        python: The interpreter whose Ray it is; None for this one.
        num_cpus: Logical CPUs of the node.
        environment: Further variables.
    """
    bin_ = (python or Path(sys.executable)).parent
    token_file = folder / "home" / "token"
    token_file.parent.mkdir(parents=True)
    token_file.write_text(secrets.token_hex(32))
    ports = free_ports(len(PORTS))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}
    variables = {
        **inherited,
        "HOME": str(token_file.parent),
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports[PORTS.index('dashboard-port')]}",
        **environment,
    }
    start = f"ray start --head --num-cpus={num_cpus} --dashboard-host=127.0.0.1"
    with started(start, ports, folder / "head.log", variables) as running:
        yield running


@contextmanager
def started(command: str, ports: list[int], log: Path, environment: Mapping[str, str]) -> Iterator[Head]:
    """Start a head by a command that does so, wait until it takes jobs, and kill all of it at the end.

    Args:
        command: For a shell. It gets what lets others run on this busy machine beside it, and it be ended without them.
        ports: One for each of PORTS.
        log: A file for what it prints.
        environment: What whoever starts it has exported.
    """
    temp = Path(tempfile.mkdtemp(prefix="moco", dir="/tmp"))  # sockets below it have room for 107 letters in all
    named = dict(zip(PORTS, ports, strict=True))
    command += f" --block --temp-dir={temp} --object-store-memory={STORE_BYTES}"
    command += " --min-worker-port=0 --max-worker-port=0"  # any that is free
    command += "".join(f" --{name}={port}" for name, port in named.items())
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            env={**environment, "RAY_raylet_start_wait_time_s": "120", "RAY_worker_niceness": "0"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: process.poll() is not None or all(_answers(named[name]) for name in _NEEDED_FOR_JOBS), log.read_text
        )
        assert process.poll() is None, log.read_text()
        bin_ = Path(environment["PATH"].partition(":")[0])
        yield Head(environment=environment, bin=bin_, temp=temp, port=named["port"])
    finally:
        _kill_ray(process, temp)
        shutil.rmtree(temp, ignore_errors=True)


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
        return True
    return False


def _kill_ray(process: subprocess.Popen[bytes], temp: Path) -> None:
    """kill -9 everything that belongs to the head: its family, and what has its folder on the command line."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    strays = [one for one in psutil.process_iter(["cmdline"]) if str(temp) in " ".join(one.info["cmdline"] or [])]
    for one in [*family, *strays]:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL)
    process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that are free now, below those that the system gives to whoever asks for any."""
    ports: list[int] = []
    while len(ports) < count:
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports
