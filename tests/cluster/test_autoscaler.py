"""Clusters that start nodes when a run needs them, and end them after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cluster.autoscaling import AutoscalingHead
from tests.cluster.nodes import Driver
from tests.runs import metrics

pytestmark = pytest.mark.slow

STEPS = 300
RUN = ["--preset", "smoke", "--optim.global-batch-size", "128", "--optim.bn-groups", "4", "--optim.epochs", "1000"]
RUN += ["--method.queue-size", "256", "--eval.every-steps", "100000", "--run.max-steps", str(STEPS)]


@pytest.fixture(scope="module")
def head() -> Iterator[AutoscalingHead]:
    """A cluster of only a head, which may start a node for one worker, and one for its data."""
    started = AutoscalingHead({"trainer": {"CPU": 1, "trainer": 1}, "data": {"CPU": 1}}, max_nodes=1, idle_s=10)
    yield started
    started.stop()


def _driver(head: AutoscalingHead, images: Path, storage: Path, *flags: str) -> Driver:
    arguments = [*RUN, "--data.uri", str(images), "--run.storage-path", str(storage), "--run.name", "run", *flags]
    return Driver(head.address, storage / "log", arguments)


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        (["--run.num-workers", "4"], "4 workers with 1 CPU each"),
        (["--run.num-workers", "1", "--run.device", "cuda"], "1 worker with 1 CPU, 1 GPU"),
    ],
)
def test_what_the_autoscaler_could_never_start_is_refused_with_what_there_is(
    flags: list[str], asked: str, head: AutoscalingHead, images: Path, tmp_path: Path
) -> None:
    start = time.monotonic()
    driver = _driver(head, images, tmp_path, *flags)
    try:
        assert driver.end() == 2, driver.text()
    finally:
        driver.stop()
    assert time.monotonic() - start < 60
    text = driver.text()
    assert asked in text and "autoscaler" in text, text
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_run_waits_for_nodes_grows_with_them_and_lets_them_go(
    head: AutoscalingHead, images: Path, tmp_path: Path
) -> None:
    head.wait_for_nodes(0)
    # There is never room for four workers, and the autoscaler starts no node at all for a request that it cannot meet.
    flags = ["--run.min-workers", "1", "--run.max-workers", "4", "--run.resize-every-s", "3"]
    flags += ["--run.worker-resources", "trainer=1"]
    driver = _driver(head, images, tmp_path, *flags)
    try:
        driver.wait_for_text("there is room for 0 of at least 1 worker now: asked the autoscaler for more nodes")
        driver.wait_for_text(r"waiting for the first batch")
        head.wait_for_nodes(2)  # the worker's, and one for data
        head.allow(2)
        assert driver.end() == 0, driver.text()
    finally:
        driver.stop()
    sizes = np.array([line["world_size"] for line in metrics(tmp_path / "run")])
    assert len(sizes) == STEPS
    assert (sizes[0], sizes[-1]) == (1, 2) and np.count_nonzero(np.diff(sizes)) == 1, driver.text()
    head.wait_for_nodes(0)  # those for data, too: their claim is withdrawn when the workers go
