"""What all tests share: images, and one Ray."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.runs import write_images

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent home; all else is as a user has it


# As a terminal has them, where the tests run in the background.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # two threads of one pool on two busy cores wait for each other most of the time


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
