"""A head whose autoscaler starts and ends nodes, all of them processes of this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.cluster.heads import free_ports
from tests.cluster.nodes import STORE_BYTES

_HEAD = "FAKE_HEAD_NODE_ID"  # Ray's name for it
_MARK = "MOCO_RAY_TEST_CLUSTER"  # in the environment of every process of the cluster
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


class AutoscalingHead:
    """A head without CPUs, `ray start --head`, that starts nodes of certain types when something needs them.

    Args:
        types: For each type of node its resources.
        max_nodes: Most nodes of each type.
        idle_s: Seconds after which an idle node goes away.
    """

    def __init__(self, types: dict[str, dict[str, float]], max_nodes: int, idle_s: float) -> None:
        self._types, self._idle_s = types, idle_s
        self._mark = uuid.uuid4().hex
        self._folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets are in it
        gcs, client = free_ports(2)
        self.address = f"127.0.0.1:{gcs}"
        self.allow(max_nodes)
        environment = {
            **os.environ,
            _MARK: self._mark,
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_CLOUD_INSTANCE_ID": _HEAD,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD,
            "RAY_worker_niceness": "0",
            "RAY_raylet_start_wait_time_s": "120",
        }
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={gcs}"]
        command += ["--node-ip-address=127.0.0.1", f"--ray-client-server-port={client}", "--num-cpus=0"]
        command += [f"--object-store-memory={STORE_BYTES}", "--include-dashboard=false", f"--temp-dir={self._folder}"]
        command += [f"--autoscaling-config={self._config}", "--dashboard-agent-listen-port=0"]
        self._log = self._folder / "head.log"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            self._wait(lambda: "Ray runtime started" in self._log.read_text(), 240)
        except BaseException:
            self.stop()
            raise

    @property
    def _config(self) -> Path:
        return self._folder / "autoscaling.json"

    def allow(self, max_nodes: int) -> None:
        """Let the autoscaler have so many nodes of each type; it reads this again and again."""
        head = {"resources": {"CPU": 0}, "min_workers": 0, "max_workers": 0, "node_config": {}}
        types = {
            name: {
                "resources": {**resources, "object_store_memory": STORE_BYTES},
                "min_workers": 0,
                "max_workers": max_nodes,
                "node_config": {},
            }
            for name, resources in self._types.items()
        }
        config: dict[str, Any] = {
            "cluster_name": "moco-ray-test",
            "max_workers": max_nodes * len(types),
            "idle_timeout_minutes": self._idle_s / 60,
            "provider": {
                "type": "external",
                "module": _PROVIDER,
                "gcs_address": self.address,
                "launch_multiple": True,
                "head_node_id": _HEAD,
            },
            "available_node_types": {"ray.head.default": head, **types},
            "head_node_type": "ray.head.default",
            **{f"{kind}setup_commands": [] for kind in ("", "head_", "worker_")},
            **{f"{kind}_start_ray_commands": [] for kind in ("head", "worker")},
            "initialization_commands": [],
            "file_mounts": {},
            "auth": {},
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
        }
        fresh = self._folder / "fresh.json"
        fresh.write_text(json.dumps(config))
        fresh.replace(self._config)

    def num_nodes(self) -> int:
        """Nodes with CPUs that run now, of which the head has none: counts the processes."""
        commands = [_command(process) for process in self._family()]
        raylets = [command for command in commands if command and Path(command[0]).name == "raylet"]
        return sum(re.search("[=,]CPU,", argument) is not None for command in raylets for argument in command)

    def wait_for_nodes(self, number: int, timeout_s: float = 90.0) -> None:
        """Wait until so many nodes run, without the head."""
        self._wait(lambda: self.num_nodes() == number, timeout_s)

    def stop(self) -> None:
        """Kill every process of the cluster."""
        self._process.kill()
        self._process.wait()
        while family := self._family():
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            time.sleep(0.2)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _family(self) -> list[psutil.Process]:
        """Processes of the cluster: nodes are not children of the head for ever."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                is_ours = process.environ().get(_MARK) == self._mark
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _wait(self, what: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not what():
            assert self._process.poll() is None, f"the head ended\n{self._log.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"after {timeout_s} s: {self.num_nodes()} nodes"
            time.sleep(0.5)


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []
