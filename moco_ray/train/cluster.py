"""The Ray cluster of a run, and which of its log lines a person wants to read."""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

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
_VERDICT_TIMEOUT_S = 30.0

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node that lives."""

    name: str
    """Its address."""
    resources: dict[str, float]
    """Its Ray resources in all, used or not."""
    labels: dict[str, str] = field(default_factory=dict)
    """Its Ray labels."""

    def describe(self) -> str:
        """A line for the user."""
        hidden = ("node:", "object_store_memory", "memory")
        shown = {name: value for name, value in self.resources.items() if not name.startswith(hidden) and value}
        listed = ", ".join(f"{value:g} {name}" for name, value in shown.items())
        return f"{self.name}: {listed or 'no CPU or GPU'}"


def living_nodes() -> list[Node]:
    """The nodes of the cluster."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return [
        Node(name=node["NodeManagerAddress"], resources=dict(node["Resources"]), labels=dict(node["Labels"]))
        for node in alive
    ]


def fitting(each: Mapping[str, float], resources: Mapping[str, float]) -> int:
    """Workers that these resources hold; five of 0.4 CPUs fit into 2, though 2 // 0.4 is 4."""
    return int(min((resources.get(name, 0.0) + 1e-6) // amount for name, amount in each.items() if amount > 0))


def fitting_beside_data(cpus_each: float, cpus: Sequence[float]) -> int:
    """Workers that nodes with so many CPUs hold, where one of the nodes keeps a whole CPU: a data task needs that."""
    fits = [fitting({"CPU": cpus_each}, {"CPU": amount}) for amount in cpus]
    kept = [fitting({"CPU": cpus_each}, {"CPU": amount - 1.0}) for amount in cpus]
    return max((sum(fits) - fits[i] + kept[i] for i, amount in enumerate(cpus) if amount >= 1.0), default=0)


def has_autoscaler() -> bool:
    """Whether something starts nodes where they are missing."""
    return int(_cluster_status().autoscaling_state.autoscaler_state_version) > 0


def can_start(bundles: list[dict[str, float]], labels: list[dict[str, str]] | None = None) -> bool:
    """Ask the autoscaler for nodes with room for all bundles at once, and whether it could ever have them.

    Args:
        bundles: Resources that one node each must have free.
        labels: Labels of the node of each bundle; None for any node.
    """
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=bundles, bundle_label_selectors=labels)
    asked = request_number()
    deadline = time.monotonic() + _VERDICT_TIMEOUT_S
    while time.monotonic() < deadline:
        status = _cluster_status()
        if _requested(status) != Counter(_key(bundle) for bundle in bundles):  # another run's request took its place
            request_resources(bundles=bundles, bundle_label_selectors=labels)
            asked = request_number()
        elif (possible := _verdict(status, asked)) is not None:
            if not possible:
                request_resources(bundles=[])
            return possible
        time.sleep(0.5)
    return True  # no verdict: wait for the nodes, which says what it waits for


def request_number() -> int:
    """A number for the request to the autoscaler that has just been made, to ask for the verdict on it."""
    # Each view of the cluster that the head hands out has a higher number; only later ones hold the request.
    return int(_cluster_status().cluster_resource_state.cluster_resource_state_version)


def is_possible(asked: int) -> bool | None:
    """The autoscaler's verdict on all that is requested of it; None as long as there is none on this request."""
    return _verdict(_cluster_status(), asked)


def _verdict(status: Any, asked: int) -> bool | None:
    state = status.autoscaling_state
    if state.last_seen_cluster_resource_state_version <= asked:
        return None
    return not state.infeasible_cluster_resource_constraints


def _requested(status: Any) -> Counter[tuple[tuple[str, float], ...]]:
    """The bundles that the autoscaler is asked for, and how many of each."""
    found: Counter[tuple[tuple[str, float], ...]] = Counter()
    for constraint in status.cluster_resource_state.cluster_resource_constraints:
        for entry in constraint.resource_requests:
            found[_key(entry.request.resources_bundle)] += entry.count
    return found


def _key(bundle: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((name, round(amount, 4)) for name, amount in bundle.items() if amount))


def give_back_nodes() -> None:
    """Stop asking the autoscaler for what `can_start` has asked it for: what starts next asks for itself."""
    import ray
    from ray.autoscaler.sdk import request_resources

    if ray.is_initialized() and has_autoscaler():
        request_resources(bundles=[])


def _cluster_status() -> Any:
    """What the head knows from nodes and autoscaler. Semi-public: Ray's own status command reads the same."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]

    reply = GetClusterStatusReply()
    reply.ParseFromString(GcsClient(ray.get_runtime_context().gcs_address).get_cluster_status(timeout_s=10))
    return reply


def choose_authentication() -> None:
    """Have a Ray that this process starts ask for a token. To call before anything imports Ray, if that can be.

    Ray reads the mode when it is imported. Imported without one it chooses tokens itself as it starts, with a warning; a
    mode that is set in between reaches the processes that it starts but not this one, and the two refuse each other.
    """
    if not os.environ.get("RAY_ADDRESS") and "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def connect(num_workers: int, say: Say) -> None:
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
            say(f"connecting to Ray at {address}")
            _check_reachable(address)
            try:
                with _keep_sigterm_handler():
                    ray.init(address=address, logging_level=logging.WARNING)
            except ray.exceptions.AuthenticationError as error:
                raise ValueError(
                    f"the Ray cluster at RAY_ADDRESS {address!r} refuses this token ({str(error).split('.')[0]}); set "
                    "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN to the token of its head"
                ) from error
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise ValueError(f"no Ray cluster answers at RAY_ADDRESS {address!r}: {error}") from error
        else:
            say("starting Ray on this machine")
            # Workers take logical CPUs of their own, so that every real one is free for data.
            cpus = (os.cpu_count() or 1) + num_workers
            with _keep_sigterm_handler():
                ray.init(address="local", num_cpus=cpus, include_dashboard=False, logging_level=logging.WARNING)


@contextmanager
def _keep_sigterm_handler() -> Iterator[None]:
    """Put the handler back that Ray replaces when it starts: Ray's own ends the process without a word."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def is_connected() -> bool:
    """Whether this process is connected to a cluster. Does not import Ray: `connect` sets what Ray reads then."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


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


def say_from_worker(line: str) -> None:
    """Say something in a process of the cluster, for the driver to print."""
    sys.stdout.write(f"{_OUR_MARK}{line}\n")  # print would come twice: Ray Train logs what is printed, too
    sys.stdout.flush()


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
