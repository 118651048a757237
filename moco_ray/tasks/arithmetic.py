"""In which numbers a run computes: chosen where it begins, and the same wherever it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from moco_ray.config.run import RunConfig
from moco_ray.core import collectives
from moco_ray.core.precision import autocast_of, has_bfloat16
from moco_ray.run_folder.checkpoint import State


def choose_dtype(config: RunConfig, restored: State | None, device: torch.device) -> str:
    """The name of the run's dtype: an automatic one is chosen for its first workers, and then kept. All ranks must call.

    Args:
        config: What was asked for.
        restored: The checkpoint that the run goes on from; one without a dtype is of a time when float32 was the default.
        device: Of this rank.
    """
    if config.dtype != "auto":
        return config.dtype
    if restored is not None:
        return str(restored.get("dtype", "float32"))
    return "bfloat16" if collectives.all_reduce_min(int(has_bfloat16(device)), device) else "float32"


def words(config: RunConfig, dtype: str, devices: list[str], *, all_have_bfloat16: bool) -> list[str]:
    """What to say of a run's arithmetic before it starts; nothing of what a CPU does anyway.

    Args:
        config: What was asked for.
        dtype: What is done.
        devices: The models of all ranks' devices.
        all_have_bfloat16: Whether each computes in bfloat16.
    """
    lines = []
    is_gpu = devices[0] != "cpu"
    models = ", ".join(sorted(set(devices)))
    asked = f"run.dtype {config.dtype}"
    if is_gpu and dtype == "float32" and all_have_bfloat16:  # those have TF32
        lines.append(f"arithmetic: float32, factors of convolutions and matrix products rounded to TF32 ({asked})")
    elif is_gpu or dtype != "float32":
        over = " over float32 weights" if autocast_of(dtype) else ""
        lines.append(f"arithmetic: {dtype}{over} ({asked})")
    if is_gpu and not all_have_bfloat16:
        if dtype == "bfloat16":
            lines.append(
                f"warning: not each of {models} has bfloat16, which takes longer than float32 there; a new run with "
                "--run.dtype float16 would be faster"
            )
        elif dtype == "float32" and config.dtype == "auto":
            lines.append(
                f"not each of {models} has bfloat16; a new run with --run.dtype float16 takes about half the memory"
            )
    if config.compile:
        lines.append("compiling the encoders; the first steps take minutes")
    if config.compress_gradients and len(devices) > 1:
        lines.append("gradients are sent in bfloat16: their rounding depends on the number of workers")
    return lines


@contextmanager
def fast_arithmetic(device: torch.device, dtype: str) -> Iterator[None]:
    """Let CUDA round factors to TF32, but in float64, and choose convolutions by trying them; as before, afterwards."""
    if device.type != "cuda" or dtype == "float64":
        yield
        return
    precision, searches = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = searches
