"""The nodes of the Ray cluster of a run, and what its autoscaler could start."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_VERDICT_TIMEOUT_S = 30.0


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


def withdraw_data(name: str) -> None:
    """Stop asking the autoscaler for the CPUs that data sets of this name wanted.

    Ray Data does so when a data set ends. One whose workers are gone is killed, and its claim would keep nodes for three
    minutes. Semi-public: claims are known by the names of their data sets, which the coordinator alone has whole.
    """
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    def withdraw(coordinator: Any) -> None:
        for requester in list(coordinator._ongoing_reqs):
            if requester.startswith(f"data-{name}_"):
                coordinator.cancel_request(requester)

    get_or_create_autoscaling_coordinator().__ray_call__.remote(withdraw)  # type: ignore[no-untyped-call]


def _cluster_status() -> Any:
    """What the head knows from nodes and autoscaler. Semi-public: Ray's own status command reads the same."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]

    reply = GetClusterStatusReply()
    reply.ParseFromString(GcsClient(ray.get_runtime_context().gcs_address).get_cluster_status(timeout_s=10))
    return reply
