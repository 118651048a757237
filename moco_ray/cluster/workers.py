"""How many workers a run has, with what each, and whether the cluster can ever hold them."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from moco_ray.cluster.connection import connect
from moco_ray.cluster.nodes import Node, can_start, fitting, fitting_beside_data, has_autoscaler, living_nodes
from moco_ray.cluster.store import is_connected
from moco_ray.config import Config
from moco_ray.config.run import RunConfig, data_label, worker_resources
from moco_ray.core.batch import useful_rank_counts

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The workers of a run; none at all trains in the calling process."""

    fewest: int
    """Fewest workers to train with."""
    most: int
    """Most workers to train with; 0 for none."""
    uses_gpu: bool
    """Whether each trains on a GPU."""
    resources: dict[str, float]
    """Ray resources of each."""


def trains_here(run: RunConfig) -> bool:
    """Whether a run trains inside this process: it was told so, or nothing here or in its flags asks for Ray.

    One worker on the CPUs of one machine gains nothing from Ray, and would wait for its start.
    """
    if run.num_workers is not None:
        return run.num_workers == 0
    asked = (run.min_workers, run.max_workers, run.cpus_per_worker, run.worker_resources, run.data_label)
    if any(value is not None for value in asked) or os.environ.get("RAY_ADDRESS") or is_connected():
        return False
    return not torch.cuda.is_available()


def choose_workers(config: Config) -> Workers:
    """Decide on the workers; connects to Ray if there are to be any.

    Raises:
        ValueError: The cluster neither has what was asked for nor can start it.
    """
    run = config.run
    if trains_here(run):
        if run.num_workers is None and run.device != "cuda":
            log.info("training inside this process: there is no GPU here (--run.num-workers 1 would train on Ray)")
        uses_gpu = run.device == "cuda" or (run.device == "auto" and torch.cuda.is_available())
        if uses_gpu and not torch.cuda.is_available():
            raise ValueError("run.device is cuda, but torch finds no GPU here; use --run.device cpu")
        return Workers(fewest=0, most=0, uses_gpu=uses_gpu, resources={})
    connect(run.num_workers or run.max_workers or 1)
    nodes, grows = living_nodes(), has_autoscaler()
    uses_gpu = run.device == "cuda" or (run.device == "auto" and has_gpus(nodes, grows))
    fewest, most = _bounds(config, nodes, uses_gpu, grows)
    resources = {"CPU": _cpus_per_worker(config, fewest, nodes, grows), **({"GPU": 1.0} if uses_gpu else {})}
    workers = Workers(fewest=fewest, most=most, uses_gpu=uses_gpu, resources=resources | worker_resources(run))
    _check_possible(workers, nodes, grows)
    if label := data_label(run):
        _check_label(label, nodes, grows)
    _say_sizes(config.optim.bn_groups, workers)
    return workers


def has_gpus(nodes: list[Node], grows: bool) -> bool:
    """Whether there are GPUs, or may be."""
    return any(node.resources.get("GPU", 0.0) >= 1 for node in nodes) or (grows and can_start([{"GPU": 1.0}]))


def _bounds(config: Config, nodes: list[Node], uses_gpu: bool, grows: bool) -> tuple[int, int]:
    """Fewest and most workers."""
    run, groups = config.run, config.optim.bn_groups
    if run.num_workers is not None:
        return run.num_workers, run.num_workers
    fewest = run.min_workers or 1
    if run.min_workers is None and run.max_workers is None and not (uses_gpu and grows):
        gpus = int(sum(node.resources.get("GPU", 0.0) for node in nodes))
        return 1, max(1, min(gpus, groups)) if uses_gpu else 1
    return fewest, max(fewest, run.max_workers or groups)


def _cpus_per_worker(config: Config, fewest: int, nodes: list[Node], grows: bool) -> float:
    """Logical CPUs of each worker: one, or what leaves a CPU for data where there are few.

    Raises:
        ValueError: Nothing would be left for data.
    """
    asked = config.run.cpus_per_worker
    if grows:
        return asked or 1.0
    cpus = [node.resources.get("CPU", 0.0) for node in nodes]
    each = asked if asked is not None else _largest_share(cpus, fewest)
    if each <= 0 or fitting_beside_data(each, cpus) < fewest:
        raise ValueError(
            f"{_workers(fewest)} with {each:g} CPUs each leave no CPU for reading images on a "
            f"cluster of {sum(cpus):g} CPUs; lower run.cpus-per-worker or the number of workers, or add a node with CPUs"
        )
    return each


def _largest_share(cpus: Sequence[float], fewest: int) -> float:
    """Most CPUs, up to one, that each of so many workers can have where a whole CPU is kept for data; 0 if none."""
    shares = {share / count for amount in cpus for share in (amount, amount - 1.0) for count in range(1, fewest + 1)}
    in_ray = {math.floor(share * 1e4) / 1e4 for share in {*shares, 1.0}}  # Ray counts in ten-thousandths
    return max((each for each in in_ray if 0 < each <= 1 and fitting_beside_data(each, cpus) >= fewest), default=0.0)


def _check_possible(workers: Workers, nodes: list[Node], grows: bool) -> None:
    """Refuse what no node has, running or to be started.

    Raises:
        ValueError: The fewest workers would wait for ever.
    """
    room = sum(fitting(workers.resources, node.resources) for node in nodes)
    cpus = [node.resources.get("CPU", 0.0) for node in nodes]
    room = min(room, fitting_beside_data(workers.resources["CPU"], cpus))
    if room >= workers.fewest:
        return
    if grows and can_start([*[workers.resources] * workers.fewest, {"CPU": 1.0}]):
        log.info(
            f"there is room for {room} of at least {_workers(workers.fewest)} now: asked the autoscaler for more nodes"
        )
        return
    asked = ", ".join(f"{amount:g} {name}" for name, amount in workers.resources.items())
    short = [
        name for name, amount in workers.resources.items() if all(n.resources.get(name, 0) < amount for n in nodes)
    ]
    if grows:
        why = (
            f"the nodes that run have room for {room} of them, and the cluster's autoscaler cannot start nodes for the "
            "others and a CPU for data: it has no type of node with so much, or its max_workers is too low"
        )
    else:
        missing = f"no node has so much {' or '.join(short)}" if short else f"there is room for {room}"
        why = f"{missing}, and there is no autoscaler to start more"
    listed = "\n".join(f"  {node.describe()}" for node in nodes)
    raise ValueError(
        f"{_workers(workers.fewest)} with {asked} each can never start: {why}; use fewer "
        f"workers{' or --run.device cpu' if 'GPU' in short else ''}, or add nodes. There are\n{listed}"
    )


def _check_label(label: dict[str, str], nodes: list[Node], grows: bool) -> None:
    """Refuse a label for data that no node has, running or to be started.

    Raises:
        ValueError: Nothing would ever read an image.
    """
    if any(label.items() <= node.labels.items() and node.resources.get("CPU", 0.0) >= 1 for node in nodes):
        return
    if grows and can_start([{"CPU": 1.0}], [label]):
        return
    asked = ",".join("=".join(pair) for pair in label.items())
    own = sorted({f"{name}={value}" for node in nodes for name, value in node.labels.items() if "ray.io/" not in name})
    raise ValueError(
        f"run.data-label is {asked}, but no node with a CPU has this label{' or could be started' if grows else ''}; "
        f"labels of the nodes that run: {', '.join(own) or 'none'}"
    )


def _say_sizes(num_groups: int, workers: Workers) -> None:
    """Say which numbers of workers are worth having."""
    where = "GPUs" if workers.uses_gpu else "CPUs"
    if workers.fewest == workers.most:
        log.info(f"training with {_workers(workers.most)} on {where}")
        return
    sizes = useful_rank_counts(num_groups, workers.fewest, workers.most)
    log.info(
        f"training with {workers.fewest} to {workers.most} workers on {where}; {num_groups} BatchNorm groups make "
        f"{', '.join(map(str, sizes))} useful (a step takes the time of ceil({num_groups} / workers) groups)"
    )


def _workers(number: int) -> str:
    return f"{number} worker{'s' if number > 1 else ''}"
