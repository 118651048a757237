"""Where images are prepared on a cluster of several kinds of nodes, and what happens when that fills the memory.

Where tasks ran is read from Ray's logs: each process writes the names of the tasks that it runs into a log file with
its id in the name, and the head knows each process's node.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.nodes import Driver, add_node, cluster
from tests.runs import metrics

pytestmark = pytest.mark.slow

STORE_BYTES = 400_000_000
DATA_LABEL = {"moco-ray/role": "data"}
STEPS = 80
# 128 views of 96 pixels: 7 MB a step, 570 MB in all, faster than they are used; a node's memory for objects holds 400 MB.
RUN = ["--preset", "smoke", "--optim.global-batch-size", "128", "--optim.bn-groups", "2", "--optim.epochs", "1000"]
RUN += ["--method.queue-size", "128", "--eval.every-steps", "100000", "--views.crop-px", "96"]
RUN += ["--run.worker-resources", "trainer=1", "--run.num-workers", "2"]

# Fills a node's memory for objects half as much again.
FILL = f"""
import sys, numpy, ray
ray.init(address=sys.argv[1], logging_level="error")
held = [ray.put(numpy.ones({STORE_BYTES // 8}, numpy.uint8)) for _ in range(12)]
print("filled", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def small_cluster() -> Iterator[Any]:
    """Two nodes for training with a CPU for a worker each, and one with CPUs for data; small memory for objects."""
    with cluster(object_store_memory=STORE_BYTES) as started:
        for _ in range(2):
            add_node(started, num_cpus=1, resources={"trainer": 1}, object_store_memory=STORE_BYTES)
        add_node(started, num_cpus=2, labels=DATA_LABEL, object_store_memory=STORE_BYTES)
        started.wait_for_nodes()
        yield started


def _driver(on: Any, images: Path, storage: Path, *flags: str) -> Driver:
    arguments = [*RUN, "--data.uri", str(images), "--run.storage-path", str(storage), "--run.name", "run", *flags]
    return Driver(on.address, storage / "log", arguments)


def _logs(on: Any) -> set[Path]:
    return set(Path(on.head_node.get_logs_dir_path()).glob("worker-*.out"))


def _nodes_of_data_tasks(on: Any, logs: set[Path]) -> set[str]:
    """Ids of the nodes whose processes have run data tasks, according to these logs."""
    from ray.core.generated.gcs_pb2 import WorkerTableData

    nodes = {}
    for entry in on.global_state._connect_and_get_accessor().get_worker_table():
        address = WorkerTableData.FromString(entry).worker_address
        nodes[address.worker_id.hex()] = address.node_id.hex()
    wanted = re.compile(r"^:task_name:.*MapBatches\(task\)$", re.MULTILINE)
    return {nodes[log.name.split("-")[1]] for log in logs if wanted.search(log.read_text(errors="replace"))}


def _spilled_bytes(on: Any) -> int:
    from ray._private.internal_api import get_memory_info_reply

    return int(get_memory_info_reply(on.global_state).store_stats.spilled_bytes_total)


def _data_node(on: Any) -> str:
    (node,) = [node for node in on.global_state.node_table() if node["Labels"].items() >= DATA_LABEL.items()]
    return str(node["NodeID"])


def test_nodes_without_a_spare_cpu_leave_data_to_the_others_and_nothing_is_spilled(
    small_cluster: Any, images: Path, tmp_path: Path
) -> None:
    logs, spilled = _logs(small_cluster), _spilled_bytes(small_cluster)
    driver = _driver(small_cluster, images, tmp_path, "--run.max-steps", str(STEPS))
    try:
        assert driver.end() == 0, driver.text()
    finally:
        driver.stop()
    assert [line["world_size"] for line in metrics(tmp_path / "run")] == [2] * STEPS
    assert _nodes_of_data_tasks(small_cluster, _logs(small_cluster) - logs) == {_data_node(small_cluster)}
    assert _spilled_bytes(small_cluster) == spilled
    assert "to disk" not in driver.text()


def test_a_label_keeps_data_off_the_other_nodes_spare_cpus_and_spilling_is_said(
    small_cluster: Any, images: Path, tmp_path: Path
) -> None:
    logs, spilled = _logs(small_cluster), _spilled_bytes(small_cluster)
    label = ["--run.data-label", ",".join("=".join(pair) for pair in DATA_LABEL.items())]
    driver = _driver(small_cluster, images, tmp_path, "--run.num-workers", "1", "--run.max-steps", "100000", *label)
    try:
        driver.wait_for_text(r"step [2-9]\d/")
        assert _nodes_of_data_tasks(small_cluster, _logs(small_cluster) - logs) == {_data_node(small_cluster)}
        assert _spilled_bytes(small_cluster) == spilled
        command = [sys.executable, "-c", FILL, small_cluster.address]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "filled\n"
            driver.wait_for_text(r"warning: Ray has written \d+ MB of objects to disk.* --object-store-memory")
            other.kill()
    finally:
        driver.stop()
    assert _spilled_bytes(small_cluster) > spilled
