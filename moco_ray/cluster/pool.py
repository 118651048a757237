"""Which workers work through many things: actors of Ray, or this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from moco_ray.cluster.connection import connect
from moco_ray.cluster.nodes import Node, can_start, fitting, has_autoscaler, living_nodes
from moco_ray.cluster.ray_map import RayPool
from moco_ray.cluster.workers import Workers, has_gpus, trains_here
from moco_ray.config.run import RunConfig, data_label, worker_resources
from moco_ray.worker.pool import LocalPool, Pool

log = logging.getLogger(__name__)

_CPUS_EACH = 4.0  # of a worker without GPU, where nodes have so many


def choose_pool_workers(run: RunConfig) -> Workers:
    """Decide on the workers of a pool; connects to Ray if there are to be any. `fewest` and `most` are the same.

    Raises:
        ValueError: The cluster can never have one of them.
    """
    if trains_here(run):
        uses_gpu = run.device == "cuda" or (run.device == "auto" and torch.cuda.is_available())
        if uses_gpu and not torch.cuda.is_available():
            raise ValueError("run.device is cuda, but torch finds no GPU here; use --run.device cpu")
        return Workers(fewest=0, most=0, uses_gpu=uses_gpu, resources={})
    asked = run.num_workers or run.max_workers
    connect(asked or 1)
    nodes, grows = living_nodes(), has_autoscaler()
    uses_gpu = run.device == "cuda" or (run.device == "auto" and has_gpus(nodes, grows))
    resources = {"CPU": run.cpus_per_worker or _cpus_each(asked, uses_gpu, nodes), **({"GPU": 1.0} if uses_gpu else {})}
    resources |= worker_resources(run)
    room = sum(fitting(resources, node.resources) for node in nodes)
    if not room and not (grows and can_start([resources])):
        wanted = ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
        listed = "\n".join(f"  {node.describe()}" for node in nodes)
        raise ValueError(
            f"no node of the cluster has {wanted}, which each worker needs"
            f"{'; use --run.device cpu, or add nodes' if uses_gpu else ''}. There are\n{listed}"
        )
    count = asked or max(1, room)
    return Workers(fewest=count, most=count, uses_gpu=uses_gpu, resources=resources)


def _cpus_each(asked: int | None, uses_gpu: bool, nodes: list[Node]) -> float:
    """Logical CPUs of each worker."""
    if uses_gpu or asked is not None:
        return 1.0
    return max(1.0, min([_CPUS_EACH, *(cpus for node in nodes if (cpus := node.resources.get("CPU", 0.0)) >= 1)]))


@contextmanager
def open_pool(make: Callable[[], Any], run: RunConfig, workers: Workers) -> Iterator[Pool]:
    """Workers that have each made the same thing; they end with the context."""
    where = "GPUs" if workers.uses_gpu else "CPUs"
    pool: Pool
    if workers.most == 0:
        log.info(f"working inside this process, on {'its GPU' if workers.uses_gpu else 'the CPU'}")
        pool = LocalPool(make)
    else:
        log.info(f"working with {workers.most} worker{'s' if workers.most > 1 else ''} on {where}")
        pool = RayPool(make, count=workers.most, resources=workers.resources, label=data_label(run))
    try:
        yield pool
    finally:
        pool.close()
