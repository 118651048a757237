"""Segments of the stream: blocks of a run of steps, made by Ray Data or on threads of this process."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from moco_ray.data.blocks import Block, Source, StreamSpec, make_blocks
from moco_ray.data.daemon_pool import DaemonPool
from moco_ray.data.windows import Load, is_read_in_windows, plan_loads, read_windows
from moco_ray.storage.storage import ReadError

if TYPE_CHECKING:
    pass


def local_segment(spec: StreamSpec, source: Source, first_step: int, last_step: int) -> Iterator[Block]:
    """Make blocks on threads of this process, a few tasks ahead: the stream of one worker without Ray."""
    threads = os.cpu_count() or 1
    if is_read_in_windows(source):
        loads = read_windows(spec, source, source.order.runs(first_step, last_step))
    else:  # training begins as soon as there is one step
        loads = plan_loads(spec, first_step, last_step, num_short=threads)

    def run(load: Load) -> list[Block]:
        return list(numbered_blocks(spec, source, load))

    pool = DaemonPool(threads)
    try:
        ahead = deque(pool.submit(run, load) for load in itertools.islice(loads, threads))
        while ahead:
            blocks = ahead.popleft().result()
            if (load := next(loads, None)) is not None:
                ahead.append(pool.submit(run, load))
            yield from blocks
    finally:
        pool.shutdown()
        loads.close()


def numbered_blocks(spec: StreamSpec, source: Source, load: Load) -> Iterator[Block]:
    """Blocks with the number of their first step; an error travels as blocks, so all ranks see it at one step."""
    about = {"first_step": np.array(load.first_step)}
    if not load.error:
        try:
            for block in make_blocks(spec, source, load.first_step, load.num_steps, load.contents, load.groups):
                yield {**block, **about, "error": np.array(""), "may_pass": np.array(False)}
            return
        except (ValueError, ReadError) as error:
            load = replace(load, error=str(error), may_pass=isinstance(error, ReadError))
    for group in load.groups:
        yield {**about, "group": np.array(group), "error": np.array(load.error), "may_pass": np.array(load.may_pass)}
