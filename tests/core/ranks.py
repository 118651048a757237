"""Run a function on W real ranks: gloo processes on this machine."""

from __future__ import annotations

import multiprocessing
import tempfile
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing

T = TypeVar("T")


def run_on_ranks(num_ranks: int, function: Callable[..., T], *args: object) -> list[T]:
    """Call function(*args) on every rank at once and return what each rank returned.

    Processes come from a fork server that has already imported torch, so that a rank starts in well under a second.
    """
    multiprocessing.set_forkserver_preload(["tests.core.tiny", "moco_ray.core.agreement"])
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _rank, (num_ranks, folder, function, args), nprocs=num_ranks, start_method="forkserver"
        )
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(num_ranks)]


def _rank(rank: int, num_ranks: int, folder: str, function: Callable[..., object], args: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # torch renames collectives; every rank would say so
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=30),
    )
    torch.save(function(*args), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
