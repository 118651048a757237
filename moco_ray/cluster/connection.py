"""The connection of a run to its Ray cluster, and which of the cluster's log lines a person wants to read."""

from __future__ import annotations

import functools
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from moco_ray.cluster.store import ClusterStore
from moco_ray.storage.keys import share_through
from moco_ray.worker.console import now_said_by

log = logging.getLogger(__name__)

_OUR_MARK = "moco_ray| "
# What these have to say is said in our own lines; their files under Ray's session folder hold the rest.
_NOISE = (
    "PlacementGroupCleaner",
    "SplitCoordinator",
    "TrainController",
    "RayTrainWorker",
    "PreemptionWatcher",
    "TrialRun",
)
# A data task that is stopped with its group of workers.
_NOISY_LINES = (
    "Exception ignored in",
    "Traceback",
    "_weakrefset",
    "_remove",
    "sigterm_handler",
    "sys_exit",
    "SystemExit",
)

_CONNECT_TIMEOUT_S = 10.0


def choose_authentication() -> None:
    """Have a Ray that this process starts ask for a token. To call before anything imports Ray, if that can be.

    Ray reads the mode when it is imported. Imported without one it chooses tokens itself as it starts, with a warning; a
    mode that is set in between reaches the processes that it starts but not this one, and the two refuse each other.
    """
    if not os.environ.get("RAY_ADDRESS") and "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def connect(num_workers: int) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine.

    Raises:
        ValueError: RAY_ADDRESS names no cluster that answers.
    """
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # otherwise workers' lines come twice
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    os.environ.setdefault("RAY_worker_niceness", "0")
    choose_authentication()
    address = os.environ.get("RAY_ADDRESS")
    import ray

    if not ray.is_initialized():
        if address:
            log.info(f"connecting to Ray at {address}")
            _check_reachable(address)
            try:
                with _keep_sigterm_handler():
                    ray.init(address=address, logging_level=logging.WARNING)
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise ValueError(_why_refused(address, error)) from error
        else:
            log.info("starting Ray on this machine")
            # Workers take logical CPUs of their own, so that every real one is free for data.
            cpus = (os.cpu_count() or 1) + num_workers
            with _keep_sigterm_handler():
                ray.init(address="local", num_cpus=cpus, include_dashboard=False, logging_level=logging.WARNING)
    share_through(ClusterStore())


@contextmanager
def _keep_sigterm_handler() -> Iterator[None]:
    """Put the handler back that Ray replaces when it starts: Ray's own ends the process without a word."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def disconnect() -> None:
    """Leave the cluster, so that the next attempt connects anew."""
    import ray

    if ray.is_initialized():
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Knock at the head's door, where Ray itself would wait for minutes.

    Raises:
        ValueError: Nobody opens.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "://" in address:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ValueError(
            f"no Ray cluster answers at RAY_ADDRESS {address!r} ({error}); check the address and that its head runs, or "
            "unset RAY_ADDRESS to train on this machine"
        ) from error


def _why_refused(address: str, error: Exception) -> str:
    """What a user should know of a connection that failed: a head that listens has most often another token."""
    found = re.search(r"([\w.:\[\]-]+):(\d+)$", str(error).strip()) or re.fullmatch(r"(.+):(\d+)", address)
    listens = type(error).__name__ == "AuthenticationError"
    if found is not None and not listens:
        with suppress(OSError):
            socket.create_connection((found[1], int(found[2])), timeout=_CONNECT_TIMEOUT_S).close()
            listens = True
    if not listens:
        return f"no Ray cluster answers at RAY_ADDRESS {address!r}: {error}"
    return (
        f"the Ray cluster at RAY_ADDRESS {address!r} does not let this process in ({str(error).split('. ')[0]}); its token is "
        "most often the reason: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the token of its head "
        "(there it is in ~/.ray/auth_token)"
    )


def say_from_worker(line: str) -> None:
    """Say something in a process of the cluster, for the driver to print."""
    sys.stdout.write(f"{_OUR_MARK}{line}\n")  # print would come twice: Ray Train logs what is printed, too
    sys.stdout.flush()


@contextmanager
def only_our_lines(*, for_good: bool) -> Iterator[None]:
    """Inside, print the lines of our workers as they are, and of Ray's own processes only what matters.

    Args:
        for_good: Afterwards too: lines of a Ray that this process started come late.
    """
    # Semi-public: falls back to Ray's own printing where a release has moved it.
    try:
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher
        from ray._private.worker import print_to_stdstream
    except ImportError:
        yield
        return
    name, say = "ray_print_logs", now_said_by()

    def show(data: dict[str, Any]) -> None:
        source = data.get("actor_name") or data.get("task_name")
        for line in data.get("lines", []):
            if line.startswith(_OUR_MARK):
                say(line.removeprefix(_OUR_MARK))
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
