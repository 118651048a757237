"""How a group of workers grows, shrinks and is restarted: what runs inside Ray Train's controller.

Ray Train's scaling policy and controller callbacks are semi-public, so everything that touches them is in this file.
"""

from __future__ import annotations

import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import ray
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.train.v2._internal.logging.logging import SessionFileHandler
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.placement_group import PlacementGroup, remove_placement_group

from moco_ray.cluster.connection import say_from_worker
from moco_ray.cluster.nodes import (
    fitting,
    fitting_beside_data,
    has_autoscaler,
    is_possible,
    living_nodes,
    request_number,
    withdraw_data,
)
from moco_ray.cluster.notes import Notes, RunNotes
from moco_ray.core.batch import useful_rank_counts
from moco_ray.worker.console import say_for_good
from moco_ray.worker.runtime import LEAVING

log = logging.getLogger(__name__)
_SAVE_PATIENCE_S = 120.0
_KNOCK_TIMEOUT_S = 2.0
_KNOCKS_AT_ONCE = 16
_LOST = ("actor is dead", "actor died", "is unavailable", "ActorDied", "ActorUnavailable", "NodeDied")
_SAY_WAITING_EVERY_S = 30.0
_LOOK_AGAIN_S = 0.5
_LOOK_AT_AUTOSCALER_EVERY_S = 2.0
_ASK_FOR_DATA_EVERY_S = 20.0


class ElasticTrainer(TorchTrainer):
    """A TorchTrainer that grows to useful sizes only, saves before it grows, and shrinks at once."""

    def __init__(
        self,
        worker: Any,
        *,
        num_groups: int,
        label: dict[str, str] | None,
        notes: Notes,
        run_notes: RunNotes,
        **arguments: Any,
    ) -> None:
        super().__init__(worker, **arguments)
        self._policy = (num_groups, label, notes, run_notes)

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave Ctrl-C to the command line: Ray Train's handler would end the process with exit code 0."""

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        arguments["scaling_policy"] = UsefulSizes(self.scaling_config, *self._policy)  # type: ignore[arg-type]
        _, _, notes, run_notes = self._policy
        arguments["callbacks"].append(Chronicle(notes, run_notes))
        return super()._initialize_and_run_controller(**arguments)


class UsefulSizes(ElasticScalingPolicy):
    """Ray Train's elastic policy, with four differences.

    A group never has a size that is no faster than a smaller one. Nodes that are dead or being drained do not count,
    so a lost node makes the group smaller at once. Before a group grows it is asked to save, so growing redoes no step.
    Of an autoscaler, which starts nothing at all for a request that it cannot meet as a whole, it asks what that can
    start, and a CPU for data.
    """

    def __init__(
        self,
        scaling_config: ScalingConfig,
        num_groups: int,
        label: dict[str, str] | None,
        notes: Notes,
        run_notes: RunNotes,
    ) -> None:
        super().__init__(scaling_config)
        self._run_notes = run_notes
        self._sizes = useful_rank_counts(num_groups, scaling_config.min_workers, scaling_config.max_workers)
        self._label = label
        self._wanted = self._sizes[-1]  # workers that the autoscaler is asked for
        self._request = 0  # the number of that request
        self._looked_s = self._wanted_most_s = float("-inf")
        self._asked_for_data_s = float("-inf")
        self._notes = notes
        self._asked_s: float | None = None  # when the workers were asked to save
        self._said_waiting_s = float("-inf")

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask for nodes, after giving back what a controller of this run held when it was killed."""
        log_in_worker(says=True)  # this process is the controller's
        if (before := self._run_notes.requester()) is not None:
            coordinator = get_or_create_autoscaling_coordinator()  # type: ignore[no-untyped-call]
            coordinator.cancel_request.remote(before)  # by itself it would end after three minutes
        if (group := self._run_notes.placement_group()) is not None:  # Ray needs a dashboard to find this out
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))
        super().after_controller_start(train_run_context)
        self._wanted_most_s = time.monotonic()
        with suppress(Exception):
            self._request = request_number()
        assert self._requester_id is not None
        self._run_notes.note_requester(self._requester_id)

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        """The largest useful size that fits on the nodes that stay, with a CPU left for data; 0 if none does."""
        nodes = staying_nodes()
        usable = {name: resources for name, resources in reserved_resources.items() if name in nodes}
        each = self.scaling_config._resources_per_worker_not_none
        possible = sum(fitting(each, resources) for resources in usable.values())
        if cpus := each.get("CPU", 0.0):
            amounts = [resources.get("CPU", 0.0) for resources in nodes.values()]
            possible = min(possible, fitting_beside_data(cpus, amounts))
        return max((size for size in self._sizes if size <= possible), default=0)

    def _get_num_workers_for_resource_request(self) -> int:
        return self._wanted

    def _adapt_to_autoscaler(self) -> None:
        """Ask for fewer workers where so many cannot be had, and now and then for all again."""
        now = time.monotonic()
        if now - self._looked_s < _LOOK_AT_AUTOSCALER_EVERY_S:
            return
        self._looked_s = now
        with suppress(Exception):  # a head that is slow to answer is no reason to restart the workers
            self._adapt(now)

    def _adapt(self, now: float) -> None:
        if not has_autoscaler():
            return
        wanted = self._wanted
        if is_possible(self._request) is False:
            each = self.scaling_config._resources_per_worker_not_none
            held = sum(fitting(each, node.resources) for node in living_nodes())
            fewer = max((size for size in self._sizes if size < wanted), default=wanted)
            wanted = max(fewer, max((size for size in self._sizes if size <= min(held, wanted)), default=0))
        elif now - self._wanted_most_s > self.scaling_config.elastic_resize_monitor_interval_s:
            self._wanted_most_s, wanted = now, self._sizes[-1]
        if wanted != self._wanted:
            self._wanted = wanted
            self._send_resource_request()  # type: ignore[no-untyped-call]
            self._request = request_number()

    def _ask_for_data(self) -> None:
        """Ask for the CPU that data tasks will need: they ask for it themselves, but only once there are workers."""
        now = time.monotonic()
        if now - self._asked_for_data_s > _ASK_FOR_DATA_EVERY_S:
            self._asked_for_data_s = now
            self._autoscaling_coordinator.request_resources.remote(
                requester_id=f"{self._requester_id}-data",
                resources=[{"CPU": 1.0}],
                label_selectors=[self._label or {}],
                expire_after_s=3 * _ASK_FOR_DATA_EVERY_S,
            )

    def _leave_the_cpu_to_data(self) -> None:
        self._asked_for_data_s = float("-inf")
        self._autoscaling_coordinator.cancel_request.remote(requester_id=f"{self._requester_id}-data")

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start with as many workers as are useful and possible; wait for the fewest."""
        self._asked_s = None
        self._notes.forget_request()
        self._ask_for_data()
        self._adapt_to_autoscaler()
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, ResizeDecision):
            self._leave_the_cpu_to_data()
            self._said_waiting_s = float("-inf")
            log.info(f"starting {decision.num_workers} worker{'s' if decision.num_workers > 1 else ''}")
            return decision
        if time.monotonic() - self._said_waiting_s > _SAY_WAITING_EVERY_S:
            self._said_waiting_s = time.monotonic()
            log.info(
                f"waiting for nodes with room for {self._sizes[0]} worker{'s' if self._sizes[0] > 1 else ''} "
                f"({_amounts(self.scaling_config._resources_per_worker_not_none)} each)"
            )
        time.sleep(_LOOK_AGAIN_S)  # Ray Train asks again at once, which would keep a core of the head busy
        return decision

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Grow when it makes a step faster, after the workers have saved; a loss of nodes shows as a failure."""
        self._adapt_to_autoscaler()
        if self._asked_s is None:
            decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
            if not isinstance(decision, ResizeDecision) or decision.num_workers <= worker_group_state.num_workers:
                return NoopDecision()
            self._asked_s = time.monotonic()
            self._notes.ask_to_save()
            return NoopDecision()
        if not self._notes.is_saved() and time.monotonic() - self._asked_s < _SAVE_PATIENCE_S:
            return NoopDecision()
        self._notes.forget_request()
        self._asked_s = None
        size, before = (
            self._count_possible_workers(self._get_reserved_resources() or {}),
            worker_group_state.num_workers,
        )
        if size <= before:  # the new nodes have gone again
            return NoopDecision()
        self._notes.note_cause(f"growing from {before} to {size} workers")
        return self._get_resize_decision(size)


def staying_nodes() -> dict[str, dict[str, float]]:
    """Resources of the nodes that live, answer and are not being drained, by node id.

    The cluster's head takes many seconds to declare a node dead; a closed port says it at once.
    """
    leaving = ray._private.state.state.get_draining_nodes()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]  # type: ignore[no-untyped-call]
    with ThreadPoolExecutor(_KNOCKS_AT_ONCE) as pool:
        answers = pool.map(_answers, [(node["NodeManagerAddress"], node["NodeManagerPort"]) for node in nodes])
        return {node["NodeID"]: node["Resources"] for node, up in zip(nodes, answers, strict=True) if up}


def _answers(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=_KNOCK_TIMEOUT_S).close()
    except OSError:
        return False
    return True


class Chronicle(ControllerCallback, WorkerGroupCallback):
    """Notes what the next group of workers, or the next controller, must know of this one."""

    def __init__(self, notes: Notes, run_notes: RunNotes) -> None:
        self._notes, self._run_notes = notes, run_notes

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Note the placement group, which outlives a controller that is killed."""
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        self._run_notes.note_placement_group(group.id.hex())

    def after_worker_group_shutdown(self, worker_group_context: Any) -> None:
        """Give back the CPUs for data."""
        withdraw_data(self._notes.owner)

    after_worker_group_abort = after_worker_group_shutdown

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Note the error of a state that restarts the workers."""
        error = getattr(current_state, "training_failed_error", None)
        if error is not None:
            self._notes.note_failure(describe(error))


def log_in_worker(*, says: bool) -> None:
    """In a process of Ray Train: what is logged goes into its log files and, where it `says` so, to the driver."""
    files = [handler for handler in logging.root.handlers if isinstance(handler, SessionFileHandler)]
    say_for_good(say_from_worker if says else None, files)


def describe(error: Exception) -> str:
    """One line for what ended a group of workers."""
    if type(error).__name__ == "PreemptionError":
        return LEAVING
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return f"{type(error).__name__}: {_first_line(error)}"
    texts = {rank: f"{type(failure).__name__} {failure}" for rank, failure in failures.items()}
    if any(LEAVING in text for text in texts.values()):
        return LEAVING
    lost = sorted(rank for rank, text in texts.items() if any(sign in text for sign in _LOST))
    if lost:  # the others fail in collectives, because of it
        return f"worker{'s' if len(lost) > 1 else ''} {', '.join(map(str, lost))} lost: the process or its node died"
    rank, failure = min(failures.items())
    return f"worker {rank} failed: {_first_line(failure)}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def _amounts(resources: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
