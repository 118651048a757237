"""The kernels of a GPU, in Triton's interpreter: the same as torch's BatchNorm of one group after another."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.bare import ROOT

GROUP_SIZE, SEEN, EPS = 4, 2, 1e-3


def inputs(shape: tuple[int, ...], dtype: torch.dtype, is_affine: bool) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Images, weight and bias if there are any, and running statistics."""
    torch.manual_seed(0)
    x = (torch.randn(shape, dtype=torch.float64) * 2 + 3).to(dtype)
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    parameters = [torch.rand(shape[1], dtype=wide).requires_grad_() for _ in range(2)] if is_affine else []
    return x.requires_grad_(), parameters, [torch.rand(shape[1], dtype=wide) for _ in range(2)]


def largest_difference(shape: tuple[int, ...], dtype: torch.dtype, is_affine: bool) -> float:
    """Between our kernels and torch, over outputs, gradients and running statistics."""
    from moco_ray.core.group_normalize import GroupNormalize

    results = []
    for is_ours in (True, False):
        x, parameters, (mean, var) = inputs(shape, dtype, is_affine)
        weight, bias = parameters or (None, None)
        if is_ours:
            y = GroupNormalize.apply(x, weight, bias, mean, var, SEEN, GROUP_SIZE, EPS)
        else:
            y = torch.cat(
                [
                    F.batch_norm(group, mean, var, weight, bias, training=True, momentum=1 / (SEEN + j + 1), eps=EPS)
                    for j, group in enumerate(x.split(GROUP_SIZE))
                ]
            )
        y.backward(torch.randn(shape, dtype=torch.float64).to(dtype))
        results.append([y.detach(), x.grad, mean, var, *(parameter.grad for parameter in parameters)])
    return max(float((a - b).abs().max()) for a, b in zip(*results, strict=True))


def compare() -> None:
    """In a process whose Triton interprets: prints a line for each case."""
    from moco_ray.core import group_normalize

    torch.cuda.device_of = lambda x: nullcontext()
    shapes = ((12, 5, 3, 3), (12, 70), (8, 130, 2, 2))
    for blocks, tile, shape in zip((16, 1, 1024), (64, 64, 4096), shapes, strict=True):
        group_normalize._BLOCKS, group_normalize._TILE = blocks, tile
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for is_affine in (True, False):
                print(dtype, largest_difference(shape, dtype, is_affine), shape, is_affine, sep="|")


def test_kernels_equal_torch() -> None:
    command = [sys.executable, "-c", "from tests.core.test_group_kernels import compare; compare()"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=True)
    lines = [line.split("|") for line in found.stdout.splitlines()]
    assert len(lines) == 18
    most = {"torch.float64": 1e-13, "torch.float32": 2e-5, "torch.bfloat16": 0.05}
    for dtype, difference, *case in lines:
        assert float(difference) < most[dtype], (dtype, difference, case)


@pytest.mark.parametrize(
    ("capability", "number", "acc", "is_affine"),
    [(75, "fp16", "fp32", True), (80, "bf16", "fp32", True), (90, "bf16", "fp32", False), (90, "fp64", "fp64", True)],
)
def test_kernels_compile_for_gpus(capability: int, number: str, acc: str, is_affine: bool) -> None:
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from moco_ray.core import group_kernels

    pointers = dict.fromkeys(("x", "y", "dx", "dy"), f"*{number}")
    dtype = {"fp32": tl.float32, "fp64": tl.float64}[acc]
    numbers = ("rows", "channels", "rows_a_split", "groups", "splits", "seen")
    constants = {"EPS": 1e-5, "IS_AFFINE": is_affine, "TILE_ROWS": 64, "TILE_CHANNELS": 64, "ACC": dtype}
    constants["TILE_SPLITS"] = 128
    kernels = [value for name, value in vars(group_kernels).items() if name.endswith("_kernel")]
    assert len(kernels) == 6
    for kernel in kernels:
        names = kernel.arg_names
        own = {name: constants[name] for name in names if name in constants}
        types = {n: "constexpr" if n in own else "i32" if n in numbers else pointers.get(n, f"*{acc}") for n in names}
        source = ASTSource(fn=kernel, signature=types, constexprs={(names.index(n),): v for n, v in own.items()})
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        assert compiled.asm["cubin"]
