"""The position-addressed stream: any rank's part of any step, through Ray Data or inside one process."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from moco_ray.core.batch import Batch, groups_per_rank
from moco_ray.data.blocks import Block, StreamSpec
from moco_ray.data.daemon_pool import start_daemon

_SEGMENT_TASKS = 2000  # tasks that one Ray data set plans ahead: bounds the memory of planning a long run
_READ_AHEAD_STEPS = 3
_WAKE_EVERY_S = 1.0  # a signal that comes just as a wait begins is seen when that wait ends
LONGEST_STALL_S = 600.0  # longest wait for a batch; collectives must have more patience than that


class StreamError(Exception):
    """Images do not exist or do not decode, which the user must mend; every rank meets it at the same step."""


class DataUnavailable(OSError):
    """Images that should be there cannot be read now; every rank meets it at the same step."""


class BadRow(NamedTuple):
    """An image that does not decode."""

    row: int
    uri: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """One step's images, and what the stream has to say about them."""

    batch: Batch
    """This rank's groups."""
    bad: list[BadRow]
    """Rows of this rank's groups that do not decode; given with the first step of a task."""


# (first step, last step) of a segment -> this rank's blocks of it, in order. All ranks must call together.
OpenSegment = Callable[[int, int], Iterable[Block]]


@dataclass(kw_only=True)
class Stream:
    """Batches of one rank from a step on, prepared ahead by a background thread.

    Each segment deals its blocks round-robin over the ranks: block k = task * G + group goes to rank k mod W.
    """

    spec: StreamSpec
    """What is streamed."""
    first_step: int
    """First step, as a checkpoint says."""
    last_step: int
    """One past the last step."""
    rank: int
    """This rank."""
    num_ranks: int
    """Ranks that share the batch (W)."""
    open_segment: OpenSegment
    """Opens a run of steps."""
    pin_memory: bool = False
    """Whether batches are put into page-locked memory for faster copies to a GPU."""
    wait_s: float = field(default=0.0, init=False)
    """Seconds that the consumer has waited for data so far."""

    def __iter__(self) -> Generator[Loaded]:
        """Yield the steps in order; whoever leaves before the last one closes it. All ranks must iterate in step.

        Raises:
            Exception: Whatever the data tasks raised.
        """
        segments: queue.Queue[tuple[int, int, Iterable[Block]] | None] = queue.Queue()
        ready: queue.Queue[Loaded | BaseException | None] = queue.Queue(maxsize=_READ_AHEAD_STEPS)
        stop = threading.Event()
        length = max(1, _SEGMENT_TASKS * self.spec.steps_per_task * self.spec.groups_per_task // self.spec.num_groups)
        opened = self.first_step
        start_daemon(self._prepare, segments, ready, stop, name="stream")
        try:
            for step in range(self.first_step, self.last_step):
                # The next segment is opened half a segment early, at a step that all ranks reach together.
                if opened < self.last_step and step >= opened - length // 2:
                    end = min(opened + length, self.last_step)
                    segments.put((opened, end, self.open_segment(opened, end)))
                    opened = end
                    if opened == self.last_step:
                        segments.put(None)
                yield self._next(ready, step)
        finally:
            stop.set()
            segments.put(None)

    def _next(self, ready: queue.Queue[Loaded | BaseException | None], step: int) -> Loaded:
        start = time.monotonic()
        while True:
            try:
                loaded = ready.get(timeout=min(_WAKE_EVERY_S, LONGEST_STALL_S))
                break
            except queue.Empty:
                if time.monotonic() - start < LONGEST_STALL_S:
                    continue
                raise DataUnavailable(
                    f"no images for step {step} came within {LONGEST_STALL_S:.0f} s: the storage does not answer, or no "
                    "node has a free CPU for reading"
                ) from None
        self.wait_s += time.monotonic() - start
        if isinstance(loaded, BaseException):
            raise loaded
        assert loaded is not None and loaded.batch.step == step, f"the stream gave another step than {step}"
        return loaded

    def _prepare(
        self,
        segments: queue.Queue[tuple[int, int, Iterable[Block]] | None],
        ready: queue.Queue[Loaded | BaseException | None],
        stop: threading.Event,
    ) -> None:
        def put(item: Loaded | BaseException | None) -> bool:
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.2)
                    return True
                except queue.Full:
                    continue
            return False

        try:
            while (segment := segments.get()) is not None and not stop.is_set():
                for loaded in self._batches(*segment):
                    if not put(loaded):
                        return
            put(None)
        except BaseException as error:
            put(error)

    def _batches(self, first_step: int, last_step: int, blocks: Iterable[Block]) -> Iterator[Loaded]:
        iterator = iter(blocks)
        step, task = first_step, 0
        try:
            while step < last_step:
                groups = groups_per_rank(task * self.spec.num_groups, self.spec.num_groups, self.num_ranks)
                held = [self._expect(next(iterator, None), step, group) for group in groups[self.rank]]
                bad = [BadRow(*entry) for block in held for entry in json.loads(str(block["bad"]))]
                for t in range(len(held[0]["rows"])):
                    yield Loaded(batch=self._batch(held, t, step, groups), bad=bad if t == 0 else [])
                    step += 1
                task += 1
            if next(iterator, None) is not None:
                raise RuntimeError(f"rank {self.rank} got a block beyond step {last_step}: misdealt")
        finally:
            if isinstance(iterator, Generator):
                iterator.close()  # after an error its threads would live as long as the traceback

    def _expect(self, block: Block | None, step: int, group: int) -> Block:
        """Return the block if it is the expected one and whole."""
        if block is None:
            raise RuntimeError(f"rank {self.rank}: the stream ended before step {step}, group {group}")
        found = (int(block["first_step"]), int(block["group"]))
        if found != (step, group):
            raise RuntimeError(f"rank {self.rank} expected block (step, group) {(step, group)}, got {found}: misdealt")
        if str(block["error"]):
            raise (DataUnavailable if bool(block["may_pass"]) else StreamError)(str(block["error"]))
        return block

    def _batch(self, held: list[Block], t: int, step: int, groups: list[list[int]]) -> Batch:
        def together(name: str) -> torch.Tensor:
            parts = [block[name][t] for block in held]
            shape = (sum(map(len, parts)), *parts[0].shape[1:])
            dtype = torch.from_numpy(np.empty(0, dtype=parts[0].dtype)).dtype
            array = torch.empty(shape, dtype=dtype, pin_memory=self.pin_memory)
            np.concatenate(parts, out=array.numpy())
            return array

        return Batch(
            arrays={name: together(name) for name in self.spec.maker.arrays()},
            rows=np.concatenate([block["rows"][t] for block in held]),
            indices=np.concatenate([block["indices"][t] for block in held]),
            step=step,
            groups=groups,
            group_size=self.spec.group_size,
            shuffle=self.spec.shuffle(step),
        )
