"""What all tests share: images, one Ray, and one S3 server."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from moco_ray.cli import export as export  # has its own name for what is replaced below
from moco_ray.report import classification, run_report
from moco_ray.storage.storage import Storage
from moco_ray.worker.console import said_by
from tests.runs import write_images
from tests.s3 import S3Server, open_storage, s3_server

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent home; all else is as a user has it


# As a terminal has them, where the tests run in the background.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # two threads of one pool on two busy cores wait for each other most of the time


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The lines that the program says while the test runs."""
    lines: list[str] = []
    with said_by(lines.append):
        yield lines


@pytest.fixture
def pictures() -> None:
    """For a test in whose runs pictures are drawn."""


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this process draw no pictures, which take longer than all their steps, where the test asks for none."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(run_report, "illustrate", lambda *run: [])
        monkeypatch.setattr(classification, "draw_results", lambda *run: [])


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 211 digits in ten class folders: a prime number, so that nothing divides it."""
    return write_images(tmp_path_factory.mktemp("images"), 211)


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[None]:
    """One local Ray for the whole session, with CPUs for eight workers and two data tasks."""
    import ray

    os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"
    os.environ["RAY_raylet_start_wait_time_s"] = "120"
    os.environ["RAY_worker_niceness"] = "0"
    ray.init(address="local", num_cpus=10, include_dashboard=False, logging_level="warning")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that knows nothing of AWS."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


@pytest.fixture
def s3(server: S3Server, no_aws: None, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with its credentials in the environment."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest) -> Storage:
    """An empty folder that was not made yet, on a disk and on S3."""
    name = f"f{abs(hash(request.node.name)):x}"
    if request.param == "local":
        return open_storage(f"{request.getfixturevalue('tmp_path')}/{name}")
    return open_storage(f"s3://{request.getfixturevalue('s3').bucket}/{name}")
