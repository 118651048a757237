"""Reading of whole windows: each row group of a Parquet file once for all batches that a window mixes."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moco_ray.data.blocks import Source, StreamSpec
from moco_ray.data.daemon_pool import DaemonPool
from moco_ray.data.reading import Encoded, read_rows
from moco_ray.storage.storage import ReadError
from moco_ray.storage.uris import is_local

_READ_THREADS = 16
_LOCAL_READ_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one data task decodes."""

    first_step: int
    """The first of its batches."""
    num_steps: int
    """How many they are."""
    groups: range
    """Which groups of each."""
    contents: Sequence[Encoded] | None = None
    """Their encoded images in order; None: the task reads them."""
    error: str = ""
    """Why there are none, if they cannot be read."""
    may_pass: bool = False
    """Whether the storage is to blame for that, and not the images."""


def plan_loads(spec: StreamSpec, first_step: int, last_step: int, *, num_short: int = 0) -> Generator[Load, None, None]:
    """The data tasks of a run of steps, each of which reads for itself; the first `num_short` steps make one each."""
    soon = min(first_step + num_short, last_step)
    steps = [(step, 1) for step in range(first_step, soon)]
    steps += [
        (step, min(spec.steps_per_task, last_step - step)) for step in range(soon, last_step, spec.steps_per_task)
    ]
    for step, num_steps in steps:
        for group in range(0, spec.num_groups, spec.groups_per_task):
            groups = range(group, min(group + spec.groups_per_task, spec.num_groups))
            yield Load(first_step=step, num_steps=num_steps, groups=groups)


def is_read_in_windows(source: Source) -> bool:
    """Whether a window may hold more than a data task: images of files are read one by one, by who decodes them."""
    return source.order.chunk_starts is not None and source.order.batch_size is not None


def read_windows(spec: StreamSpec, source: Source, runs: Sequence[tuple[int, int]]) -> Generator[Load, None, None]:
    """Read runs of steps and yield the data tasks in order, each as soon as its images are there.

    The row groups of a run are read once, on threads, in the order in which they are needed; while one run is handed
    out, the next one is read. Of a row group only the rows that the run needs are kept. In memory are the encoded images
    of two runs, and row groups of together no more rows than a window, or one.

    Args:
        spec: What is streamed.
        source: From where.
        runs: First steps and ends, as `Order.runs` gives them.
    """
    pool = DaemonPool(_num_threads(source))
    try:
        opened: deque[_Run] = deque()
        for first_step, last_step in runs:
            opened.append(_Run.open(spec, source, first_step, last_step, pool))
            if len(opened) > 1:
                yield from opened.popleft().loads()
        while opened:
            yield from opened.popleft().loads()
    finally:
        pool.shutdown()


@dataclass(kw_only=True)
class _Run:
    """A run of steps that is being read."""

    spec: StreamSpec
    first_step: int
    num_steps: int
    groups: NDArray[np.int64]
    """For each position its row group, by number in the run."""
    places: NDArray[np.int64]
    """For each position the place of its row among those of its row group that the run needs."""
    read: list[Future[list[Encoded]]] = field(repr=False)
    """For each row group its rows that the run needs."""

    @staticmethod
    def open(spec: StreamSpec, source: Source, first_step: int, last_step: int, pool: DaemonPool) -> _Run:
        """Begin to read."""
        positions = np.arange(first_step * spec.global_batch_size, last_step * spec.global_batch_size)
        rows, where = np.unique(source.train_rows[source.order.rows(positions)], return_inverse=True)
        taken = source.manifest.table.take(pa.array(rows))
        files = taken["uri"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
        row_groups = taken["row_group"].to_numpy()
        starts = np.r_[True, (files[1:] != files[:-1]) | (row_groups[1:] != row_groups[:-1])]  # rows ascend
        group_of_row = np.cumsum(starts) - 1
        firsts = np.flatnonzero(starts)
        needed, first_need = np.unique(group_of_row[where], return_index=True)
        parts = np.split(rows, firsts[1:])
        futures: dict[int, Future[list[Encoded]]] = {}
        for group in needed[np.argsort(first_need)]:
            futures[int(group)] = pool.submit(read_rows, source.manifest, parts[group], source.options)
        return _Run(
            spec=spec,
            first_step=first_step,
            num_steps=last_step - first_step,
            groups=group_of_row[where],
            places=(np.arange(len(rows)) - firsts[group_of_row])[where],
            read=[futures[group] for group in range(len(parts))],
        )

    def loads(self) -> Iterator[Load]:
        """The data tasks, waiting for what each needs."""
        size, g = self.spec.global_batch_size, self.spec.group_size
        for load in plan_loads(self.spec, 0, self.num_steps):
            steps = np.arange(load.first_step, load.first_step + load.num_steps)[:, None]
            here = (steps * size + np.arange(load.groups.start * g, load.groups.stop * g)).ravel()
            places = zip(self.groups[here].tolist(), self.places[here].tolist(), strict=True)
            load = replace(load, first_step=self.first_step + load.first_step)
            try:
                load = replace(load, contents=[self.read[group].result()[place] for group, place in places])
            except (ValueError, ReadError) as error:
                load = replace(load, error=str(error), may_pass=isinstance(error, ReadError))
            yield load


def _num_threads(source: Source) -> int:
    """As many as can hold a whole row group each without holding more rows than a window."""
    table = source.manifest.table
    largest = int(table["row_in_group"].to_numpy().max()) + 1
    most = _LOCAL_READ_THREADS if is_local(source.manifest.first_uri) else _READ_THREADS
    return int(np.clip(source.order.window // largest, 1, most))
