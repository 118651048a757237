"""Run a function on W real ranks: gloo processes on this machine."""

from __future__ import annotations

import multiprocessing
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing

T = TypeVar("T")

# So that a rank starts at once: what it runs, and what torch imports when it first trains, 1.5 CPU seconds a process.
_PRELOADED = ["tests.core.tiny", "tests.gloo", "moco_ray.core.agreement", "timm.layers"]
_PRELOADED += ["torch._dynamo", "torch._inductor.compile_fx", "torch.distributed.tensor"]


def run_on_ranks(num_ranks: int, function: Callable[..., T], *args: object) -> list[T]:
    """Call function(*args) on every rank at once and return what each rank returned."""
    with tempfile.TemporaryDirectory() as folder:
        _join(_start(num_ranks, _rank, 0, num_ranks, folder, function, args))
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(num_ranks)]


def run_beside_ranks(num_ranks: int, function: Callable[..., T], *args: object, **own: Any) -> T:
    """Call function(*args) on every rank at once, rank 0 being this process, with further arguments of its own."""
    with tempfile.TemporaryDirectory() as folder:
        others = _start(num_ranks - 1, _rank, 1, num_ranks, folder, function, args)
        try:
            with warnings.catch_warnings(), _group(0, num_ranks, folder):
                result = function(*args, **own)
            _join(others)
            return result
        except BaseException as error:
            try:
                others.join(timeout=5)
            except torch.multiprocessing.ProcessException as theirs:
                error.add_note(f"and another rank: {theirs}")  # which of the two came first, the two say
            raise
        finally:
            for process in others.processes:
                process.kill()
                process.join()


def _start(num_processes: int, function: Callable[..., object], *args: object) -> torch.multiprocessing.ProcessContext:
    """Start processes from a fork server that has already imported torch."""
    multiprocessing.set_forkserver_preload(_PRELOADED)
    context = torch.multiprocessing.start_processes(
        function, args, nprocs=num_processes, join=False, start_method="forkserver"
    )
    assert context is not None
    return context


def _join(context: torch.multiprocessing.ProcessContext) -> None:
    while not context.join():
        pass


def _rank(
    index: int, first: int, num_ranks: int, folder: str, function: Callable[..., object], args: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    with _group(first + index, num_ranks, folder):
        torch.save(function(*args), Path(folder) / f"{first + index}.pt")


@contextmanager
def _group(rank: int, num_ranks: int, folder: str) -> Iterator[None]:
    warnings.simplefilter("ignore", FutureWarning)  # torch renames collectives; every rank would say so
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=300),  # of a rank that lives and does not call; one that dies is noticed at once
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
