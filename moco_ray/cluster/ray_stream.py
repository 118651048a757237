"""Segments of the stream that Ray Data makes, on any nodes with a free CPU, dealt to the ranks of a run."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyarrow as pa
import torch

from moco_ray.data.blocks import Block, Source, StreamSpec
from moco_ray.data.segments import numbered_blocks
from moco_ray.data.windows import Load, is_read_in_windows, plan_loads, read_windows

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.data import DataIterator, Dataset


_STORE_FRACTION = 0.4  # of the memory for objects: the rest holds what ranks have asked for, and all else
_MOST_OF_MEMORY = 0.8  # of a node's, for one task
_RESERVED_CPUS = re.compile("CPU_group_[0-9a-f]+")  # of a placement group, on a node
# A window is read beside the tasks that decode it: one CPU has room for one of these and some that read.
_DECODING_CPUS, _READING_CPUS = 0.98, 0.005
_CPUS_A_READER = 8  # that one task that reads can keep busy: it reads the next window while the last one is decoded
# Of this process's last task, by reference: Ray gives a task nothing else that would outlast it.
_sources: dict[str, Source] = {}


def ray_segment(
    spec: StreamSpec,
    source: ObjectRef[Source],
    first_step: int,
    last_step: int,
    num_ranks: int,
    *,
    label: dict[str, str] | None = None,
    name: str | None = None,
) -> list[DataIterator]:
    """Plan a segment as a Ray data set and split it: one iterator for each rank. One rank calls.

    One task makes one or a few global batches, or some groups of a large one, and yields a block, of one row, for each
    group. Where rows lie in row groups that several batches share, tasks before them read whole windows, and yield the
    encoded images of one such task each. With the order preserved and one row a block, `streaming_split` deals blocks
    exactly round-robin.

    Args:
        spec: What is streamed.
        source: From where.
        first_step: First step of the segment.
        last_step: One past its last step.
        num_ranks: Ranks that share it.
        label: Ray node label of the nodes whose CPUs make the batches; None: any.
        name: What Ray's dashboard and autoscaler know the data set by.
    """
    import ray
    from ray.data import ExecutionResources

    if is_read_in_windows(ray.get(source)):
        dataset = _windows_on_ray(spec, source, first_step, last_step, label)
    else:
        dataset = _tasks_on_ray(spec, source, first_step, last_step, label)
    dataset.set_name(name)
    dataset.context.target_max_block_size = 1  # every row becomes a block of its own
    dataset.context.execution_options.preserve_order = True
    dataset.context.execution_options.label_selector = label
    if store_bytes := _store_bytes_of_data_nodes(label):
        # Ray Data's own limit counts the memory of nodes that make no blocks, too: enough to overfill those that do.
        limits = ExecutionResources.for_limits(object_store_memory=_STORE_FRACTION * store_bytes)
        dataset.context.execution_options.resource_limits = limits
    dataset.context.enable_progress_bars = False
    # Readers ask for so small a part of a CPU that Ray takes their windows for a leak, and says so every 30 s.
    dataset.context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1
    return dataset.streaming_split(num_ranks, equal=False)


def _tasks_on_ray(
    spec: StreamSpec, source: ObjectRef[Source], first_step: int, last_step: int, label: dict[str, str] | None
) -> Dataset:
    """Tasks that read for themselves."""
    import ray

    loads = list(plan_loads(spec, first_step, last_step))

    def task(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for index in batch["id"]:
            yield from _rows_of_blocks(spec, _kept_source(source), loads[int(index)])

    numbers = ray.data.range(len(loads), override_num_blocks=len(loads))
    return numbers.map_batches(task, batch_size=None, memory=_task_memory(spec, label))


def _windows_on_ray(
    spec: StreamSpec, source: ObjectRef[Source], first_step: int, last_step: int, label: dict[str, str] | None
) -> Dataset:
    """Tasks that read a window each, and tasks that decode what those hand on.

    The two ask for so different shares of a CPU that Ray does not make one task of them, and for so little more than one
    together that a single CPU is enough.
    """
    import ray
    from ray.data import TaskPoolStrategy

    def read(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        runs = list(zip(batch["first_step"].tolist(), batch["last_step"].tolist(), strict=True))
        for load in read_windows(spec, _kept_source(source), runs):
            yield {"load": np.frombuffer(pickle.dumps(load), dtype=np.uint8)[None]}

    def decode(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for load in batch["load"]:
            yield from _rows_of_blocks(spec, _kept_source(source), pickle.loads(load))

    runs = ray.get(source).order.runs(first_step, last_step)
    windows = [pa.table({"first_step": [first], "last_step": [last]}) for first, last in runs]
    readers = min(len(runs), max(1, math.ceil(_cpus_of_data_nodes(label) / _CPUS_A_READER)))
    encoded = ray.data.from_arrow(windows).map_batches(
        read, batch_size=None, num_cpus=_READING_CPUS, compute=TaskPoolStrategy(size=readers)
    )
    return encoded.map_batches(decode, batch_size=None, num_cpus=_DECODING_CPUS, memory=_task_memory(spec, label))


def _rows_of_blocks(spec: StreamSpec, source: Source, load: Load) -> Iterator[dict[str, Any]]:
    cv2.setNumThreads(1)  # one task is one CPU; the next task is the parallelism
    torch.set_num_threads(1)
    for block in numbered_blocks(spec, source, load):
        yield {name: value[None] for name, value in block.items()}


def _kept_source(reference: ObjectRef[Source]) -> Source:
    """The source, and with it what its order has computed, as this process has it from an earlier task."""
    import ray

    if (found := _sources.get(name := reference.hex())) is None:
        _sources.clear()  # of an earlier run
        found = _sources[name] = ray.get(reference)
    return found


def _task_memory(spec: StreamSpec, label: dict[str, str] | None) -> int:
    """Bytes to ask for a task that decodes, so that a node starts no more of them than fit; never more than it has."""
    nodes = [resources.get("memory", 0.0) for resources, _ in _data_nodes(label)]
    return int(min([spec.task_bytes, *(_MOST_OF_MEMORY * memory for memory in nodes)]))


def _store_bytes_of_data_nodes(label: dict[str, str] | None) -> float:
    """Memory for objects of the nodes that make blocks."""
    return sum(resources.get("object_store_memory", 0.0) for resources, _ in _data_nodes(label))


def _cpus_of_data_nodes(label: dict[str, str] | None) -> float:
    """CPUs for making blocks."""
    return sum(cpus for _, cpus in _data_nodes(label))


def _data_nodes(label: dict[str, str] | None) -> Iterator[tuple[dict[str, float], float]]:
    """Resources of the nodes that make blocks, and their CPUs that no worker has reserved: with the label and a CPU."""
    import ray

    for node in ray.nodes():  # type: ignore[no-untyped-call]
        resources = node["Resources"]
        reserved = sum(amount for name, amount in resources.items() if _RESERVED_CPUS.fullmatch(name))
        fits = (label or {}).items() <= node["Labels"].items()
        if node["Alive"] and fits and (cpus := resources.get("CPU", 0.0) - reserved) >= 1:
            yield resources, cpus


def rank_blocks(iterator: DataIterator) -> Iterator[Block]:
    """Read one rank's blocks of a segment."""
    for row in iterator.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=4):  # type: ignore[arg-type]
        yield {name: value[0] if value.dtype != object else np.array(value[0]) for name, value in row.items()}
