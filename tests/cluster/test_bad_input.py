"""What a cluster cannot do is one clear message and exit code 2, before anything is written or waited for."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.nodes import STORE_BYTES, Driver, add_node, cluster

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    """A head without CPUs and a node with two."""
    with cluster() as started:
        add_node(started, num_cpus=2)
        started.wait_for_nodes()
        yield started


def _run(
    address: str, images: Path, storage: Path, *flags: str, environment: dict[str, str] | None = None
) -> tuple[int, str]:
    """Exit code and everything printed, without the frame around it."""
    arguments = [
        "--preset",
        "smoke",
        "--data.uri",
        str(images),
        "--run.storage-path",
        str(storage),
        "--run.name",
        "run",
    ]
    driver = Driver(address, storage.parent / "log", [*arguments, *flags], environment)
    try:
        code = driver.end()
    finally:
        driver.stop()
    assert "Traceback" not in driver.text()
    return code, " ".join(re.sub("[│╭╮╰╯─]", " ", driver.text()).split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--run.num-workers", "1", "--run.worker-resources", "trainer=1"],
            r"1 worker with 1 CPU, 1 trainer each can never start: no node has so much trainer, and there is no "
            r"autoscaler to start more; .* There are ((\S+: 2 CPU|\S+: no CPU or GPU) ?){2}$",
        ),
        (
            ["--run.num-workers", "2", "--run.cpus-per-worker", "1"],
            r"2 workers with 1 CPUs each leave no CPU for reading images on a cluster of 2 CPUs",
        ),
        (
            ["--run.num-workers", "1", "--run.data-label", "role=data"],
            r"run.data-label is role=data, but no node with a CPU has this label; labels of the nodes that run: none",
        ),
    ],
)
def test_workers_that_no_node_can_hold_are_refused_with_what_there_is(
    flags: list[str], message: str, two_nodes: Any, images: Path, tmp_path: Path
) -> None:
    code, text = _run(two_nodes.address, images, tmp_path / "runs", *flags)
    assert (code, bool(re.search(message, text))) == (2, True), text
    assert not (tmp_path / "runs" / "run" / "config.json").exists()


def test_local_folders_that_one_node_does_not_see_are_refused(two_nodes: Any, images: Path, tmp_path: Path) -> None:
    """The node has another file system mounted over a folder, as another machine would."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount file systems")
    hidden, seen = tmp_path / "hidden", tmp_path / "seen"
    shutil.copytree(images, hidden / "images")
    seen.mkdir()
    ray = Path(sys.executable).with_name("ray")
    start = f"{ray} start --address={two_nodes.address} --num-cpus=1 --object-store-memory={STORE_BYTES} --block"
    command = ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none {hidden} && exec {start}"]
    environment = {**os.environ, "RAY_raylet_start_wait_time_s": "120"}
    node = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_for_nodes(two_nodes, 3)
        for name, value, where in (
            ("run.storage-path", hidden / "runs", [images, hidden / "runs"]),
            ("data.uri", hidden / "images", [hidden / "images", seen / "runs"]),
        ):
            code, text = _run(two_nodes.address, *where, "--run.num-workers", "1")
            assert code == 2, text
            assert f"{name}{value}isalocalpath,andthenode" in text.replace(" ", ""), text  # a frame breaks long paths
            assert "does not see it" in text, text
    finally:
        node.terminate()  # it ends its processes
        with suppress(subprocess.TimeoutExpired):
            node.wait(timeout=60)
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()


def _wait_for_nodes(on: Any, number: int) -> None:
    deadline = time.monotonic() + 240
    while sum(node["Alive"] for node in on.global_state.node_table()) != number:
        assert time.monotonic() < deadline, on.global_state.node_table()
        time.sleep(0.2)


def test_an_address_where_nobody_answers_is_refused_soon(images: Path, tmp_path: Path) -> None:
    code, text = _run("127.0.0.1:1", images, tmp_path / "runs")
    assert code == 2
    assert re.search(
        r"no Ray cluster answers at RAY_ADDRESS '127.0.0.1:1' \(.*refused\); check the address and that its head runs, or "
        "unset RAY_ADDRESS to train on this machine",
        text,
    ), text


@pytest.mark.parametrize("access", [{"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}])
def test_a_token_that_is_refused_is_named_as_such(
    access: dict[str, str], two_nodes: Any, images: Path, tmp_path: Path
) -> None:
    code, text = _run(two_nodes.address, images, tmp_path / "runs", environment=access)
    assert code == 2, text
    assert "does not let this process in" in text and "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH" in text, text
