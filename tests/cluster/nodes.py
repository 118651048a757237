"""Real clusters of several Ray nodes on this machine, and real runs on them as processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

STORE_BYTES = 100_000_000


@contextmanager
def cluster(**head: Any) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` whose head has no CPUs unless told otherwise; every node dies at the end."""
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **_node(head)})
    try:
        yield started
    finally:
        started.shutdown()


def add_node(to: Any, **node: Any) -> Any:
    """Add a node and wait until it has joined."""
    return to.add_node(**_node(node))


def _node(node: dict[str, Any]) -> dict[str, Any]:
    environment = {"RAY_worker_niceness": "0", "RAY_raylet_start_wait_time_s": "120", **node.pop("env_vars", {})}
    return {"object_store_memory": STORE_BYTES, "include_dashboard": False, "env_vars": environment, **node}


def kill_node(node: Any) -> None:
    """kill -9 everything that a node runs, raylet and workers: a machine that is gone."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    family = [raylet, *raylet.children(recursive=True)]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)


def kill_cluster(of: Any) -> None:
    """kill -9 everything on every node, the head included, at once: all machines are gone."""
    nodes = [of.head_node, *of.worker_nodes]
    pids = {info.process.pid for node in nodes for infos in node.all_processes.values() for info in infos}
    family: list[psutil.Process] = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            family += [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)


def processes_of(name: str) -> list[psutil.Process]:
    """Running actors and tasks of this name, of clusters that this process started; Ray writes it into their titles."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith(f"ray::{name}"):
                found.append(process)
    return found


class Driver:
    """`jobs/pretrain.py` as a process, and what it prints."""

    def __init__(
        self, address: str, log: Path, arguments: list[str], environment: dict[str, str] | None = None
    ) -> None:
        self.log = log
        variables = {**os.environ, "RAY_ADDRESS": address, "PYTHONUNBUFFERED": "1", **(environment or {})}
        command = [sys.executable, "jobs/pretrain.py", *arguments]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=variables, start_new_session=True
            )

    def text(self) -> str:
        """Everything printed so far, by earlier drivers with the same log too."""
        return self.log.read_text(errors="replace")

    def wait_for(self, what: Callable[[], bool], timeout_s: float = 180.0) -> None:
        """Wait until something holds; the driver must live."""
        deadline = time.monotonic() + timeout_s
        while not what():
            assert self.process.poll() is None, (
                f"the driver ended with {self.process.returncode}\n{self.text()[-4000:]}"
            )
            assert time.monotonic() < deadline, self.text()[-4000:]
            time.sleep(0.1)

    def wait_for_text(self, pattern: str, count: int = 1, timeout_s: float = 180.0) -> None:
        """Wait until a pattern was printed so often."""
        self.wait_for(lambda: len(re.findall(pattern, self.text())) >= count, timeout_s)

    def end(self, timeout_s: float = 300.0) -> int:
        """Wait for the end; returns the exit code."""
        return self.process.wait(timeout=timeout_s)

    def kill(self) -> None:
        """kill -9 the driver alone: the cluster finds out by itself."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Kill whatever is left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
