"""The Ray cluster of a run, and which of its log lines a person wants to read."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

OUR_MARK = "moco_ray| "
_NOISE = (
    "PlacementGroupCleaner",
    "SplitCoordinator",
)
_NOISY_LINES = (
    "constructor arguments in the object store",
    "exceeds the maximum broadcast size",
    "Setting up process group",
    "Requesting resources",
    "Attempting to start training worker group",
    "Started training worker group",
    "world_rank=",
)

Say = Callable[[str], None]


def connect(num_workers: int, say: Say) -> dict[str, float]:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine; returns its resources.

    Raises:
        ValueError: RAY_ADDRESS names no cluster that answers.
    """
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # otherwise workers' lines come twice
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    os.environ.setdefault("RAY_worker_niceness", "0")
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        # Read when Ray is imported. Without a mode Ray decides by whether a token file exists, and processes disagree.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    if not ray.is_initialized():
        if address:
            say(f"connecting to Ray at {address}")
            try:
                ray.init(address=address, logging_level=logging.WARNING)
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise ValueError(f"no Ray cluster answers at RAY_ADDRESS {address!r}: {error}") from error
        else:
            say("starting Ray on this machine")
            # Workers take logical CPUs of their own, so that every real one is free for data.
            cpus = (os.cpu_count() or 1) + num_workers
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, logging_level=logging.WARNING)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


@contextmanager
def only_our_lines(say: Say, *, for_good: bool) -> Iterator[None]:
    """Inside, print the lines of our workers as they are, and of Ray's own processes only what matters.

    Args:
        say: Prints a line of our workers.
        for_good: Afterwards too: lines of a Ray that this process started come late.
    """
    # Semi-public: falls back to Ray's own printing where a release has moved it.
    try:
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher
        from ray._private.worker import print_to_stdstream
    except ImportError:
        yield
        return
    name = "ray_print_logs"

    def show(data: dict[str, Any]) -> None:
        source = data.get("actor_name") or data.get("task_name")
        for line in data.get("lines", []):
            if line.startswith(OUR_MARK):
                say(line.removeprefix(OUR_MARK))
            elif source and not _is_noise(source, line):
                print(f"[{source}] {line}", file=sys.stderr, flush=True)

    dispatcher.remove_handler(name)
    dispatcher.add_handler(name, show)
    try:
        yield
    finally:
        if not for_good:
            dispatcher.remove_handler(name)
            dispatcher.add_handler(name, functools.partial(print_to_stdstream, ignore_prefix=False))


def _is_noise(source: str, line: str) -> bool:
    return any(name in source for name in _NOISE) or any(text in line for text in _NOISY_LINES) or not line.strip()
