"""How many trials run at once, with what each, so that there are always CPUs left for data."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from moco_ray.cluster.connection import connect
from moco_ray.cluster.nodes import Node, can_start, fitting, give_back_nodes, has_autoscaler, living_nodes
from moco_ray.cluster.store import is_connected
from moco_ray.cluster.workers import Workers, choose_workers, has_gpus, trains_here
from moco_ray.config import Config
from moco_ray.sweep.config import SweepConfig

log = logging.getLogger(__name__)
_CPUS_OF_A_PROCESS = 2.0  # one trains, one reads and augments
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Trials on a cluster."""

    at_once: int
    """Trials that run at the same time."""
    config: Config
    """The configuration of all trials, with workers that leave room for the others."""
    process: dict[str, float]
    """Ray resources of each trial's own process, which its Ray Train workers are not part of."""


def choose_capacity(sweep: SweepConfig, config: Config, num_trials: int) -> Capacity:
    """Decide how many trials run at once, and say why. Connects to Ray.

    Raises:
        ValueError: The cluster can never hold one trial.
    """
    wanted = min(num_trials, sweep.max_concurrent or num_trials)
    try:
        if trains_here(config.run):
            return _of_processes(sweep, config, wanted)
        return _of_groups(sweep, config, wanted)
    finally:
        give_back_nodes()


def _of_processes(sweep: SweepConfig, config: Config, wanted: int) -> Capacity:
    """Trials that train in their own process each."""
    connect(0)
    nodes, grows = living_nodes(), has_autoscaler()
    uses_gpu = config.run.device == "cuda" or (config.run.device == "auto" and has_gpus(nodes, grows))
    largest = max((node.resources.get("CPU", 0.0) for node in nodes), default=0.0)
    cpus = sweep.cpus_per_trial or (_CPUS_OF_A_PROCESS if grows else min(_CPUS_OF_A_PROCESS, max(largest, 1.0)))
    need = {"CPU": cpus, **({"GPU": 1.0} if uses_gpu else {})}
    room = sum(fitting(need, node.resources) for node in nodes)
    at_once = _most(wanted, lambda k: k <= room, lambda k: grows and can_start([need] * k))
    if at_once == 0:
        raise ValueError(_never(f"one trial, a process with {_amounts(need)},", nodes, grows, "--cpus-per-trial"))
    log.info(
        f"{_trials(at_once)} at once: each is one process with {_amounts(need)}, data included, of which the nodes that "
        f"run hold {room}{_autoscaled(at_once, room)}{_limited(sweep, wanted, at_once)}"
    )
    run = replace(config.run, num_workers=0, device="cuda" if uses_gpu else "cpu")
    return Capacity(at_once=at_once, config=replace(config, run=run), process=need)


def _of_groups(sweep: SweepConfig, config: Config, wanted: int) -> Capacity:
    """Trials that train with groups of Ray Train workers."""
    if not is_connected() and not os.environ.get("RAY_ADDRESS"):  # a Ray of our own has CPUs for all workers
        workers = config.run.num_workers or config.run.min_workers or 1
        connect(workers * min(wanted, max(1, (os.cpu_count() or 1) // (workers + 1))))
    group = choose_workers(config)
    nodes, grows = living_nodes(), has_autoscaler()
    room = sum(fitting(group.resources, node.resources) for node in nodes)
    total = sum(node.resources.get("CPU", 0.0) for node in nodes)
    each, cpus = group.fewest, group.resources.get("CPU", 0.0)
    data = _amounts({"CPU": sweep.data_cpus})

    def fits(trials: int, workers: int) -> bool:
        used = trials * workers * cpus
        return trials * workers <= room and used + trials * sweep.data_cpus <= total + _ROUNDING

    def may_fit(trials: int, workers: int) -> bool:
        bundles = [group.resources] * (trials * workers) + [{"CPU": sweep.data_cpus}] * trials
        return grows and can_start(bundles)

    at_once = _most(wanted, lambda k: fits(k, each), lambda k: may_fit(k, each))
    if at_once == 0:
        what = f"one trial, {each} x {_amounts(group.resources)} to train and {data} for data,"
        raise ValueError(_never(what, nodes, grows, "the workers of a trial or --data-cpus"))
    most = each
    while most < group.most and (fits(at_once, most + 1) or may_fit(at_once, most + 1)):
        most += 1
    log.info(
        f"{_trials(at_once)} at once: each trains with {each if each == most else f'{each} to {most}'} x "
        f"{_amounts(group.resources)} and leaves {data} for its data, and the nodes that run have "
        f"{total:g} CPUs and room for {room} workers{_autoscaled(at_once * each, room)}{_limited(sweep, wanted, at_once)}"
    )
    return Capacity(at_once=at_once, config=_bounded(config, group, most), process={"memory": 1.0})


def _bounded(config: Config, group: Workers, most: int) -> Config:
    """The configuration with so many workers at most: a trial that grew further would take the others' CPUs."""
    run = replace(
        config.run,
        num_workers=most if group.fewest == most else None,
        min_workers=None if group.fewest == most else group.fewest,
        max_workers=None if group.fewest == most else most,
        device="cuda" if group.uses_gpu else "cpu",
        cpus_per_worker=group.resources.get("CPU", config.run.cpus_per_worker),
    )
    return replace(config, run=run)


def _most(wanted: int, fits: Callable[[int], bool], may_fit: Callable[[int], bool]) -> int:
    """The largest number up to `wanted` that fits now or that an autoscaler may make fit; 0 if none does."""
    now = max((k for k in range(1, wanted + 1) if fits(k)), default=0)
    low, high = now, wanted
    while low < high:  # asking an autoscaler takes seconds: halve the range
        middle = (low + high + 1) // 2
        low, high = (middle, high) if may_fit(middle) else (low, middle - 1)
    return low


def _never(what: str, nodes: list[Node], grows: bool, lower: str) -> str:
    listed = "\n".join(f"  {node.describe()}" for node in nodes)
    why = "its autoscaler cannot start nodes for it" if grows else "it has no autoscaler to start more"
    return (
        f"{what} can never start: the cluster has no room for it, and {why}; lower {lower}, or add nodes. There are\n"
        f"{listed}"
    )


def _autoscaled(needed: int, room: int) -> str:
    return "; the autoscaler can start nodes for the others" if needed > room else ""


def _limited(sweep: SweepConfig, wanted: int, at_once: int) -> str:
    if at_once < wanted:
        return ""
    return " (--max-concurrent)" if sweep.max_concurrent == wanted else " (all that there are)"


def _amounts(resources: dict[str, float]) -> str:
    return " + ".join(
        f"{amount:g} {name if name != 'CPU' or amount == 1 else 'CPUs'}" for name, amount in resources.items()
    )


def _trials(number: int) -> str:
    return f"{number} trial{'s' if number > 1 else ''}"
