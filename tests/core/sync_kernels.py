"""What torch's kernels for synchronised BatchNorm compute, which exist on CUDA alone, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def use_plain_kernels() -> None:
    """Have torch's functions of these names compute on the CPU from now on, in this process."""
    for kernel in (
        batch_norm_stats,
        batch_norm_gather_stats_with_counts,
        batch_norm_elemt,
        batch_norm_backward_reduce,
        batch_norm_backward_elemt,
    ):
        setattr(torch, kernel.__name__, kernel)


def _axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.dim()) if axis != 1]


def _wide(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))


def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.mean(dim=_axes(x)), torch.rsqrt(x.var(dim=_axes(x), unbiased=False) + eps)


def batch_norm_gather_stats_with_counts(
    x: Tensor,
    means: Tensor,
    scales: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    weights = counts[:, None] / counts.sum()
    mean = (weights * means).sum(dim=0)
    var = (weights * (1 / scales**2 - eps + (means - mean) ** 2)).sum(dim=0)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(var * counts.sum() / (counts.sum() - 1), momentum)
    return mean, torch.rsqrt(var + eps)


def batch_norm_elemt(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, scale: Tensor, eps: float
) -> Tensor:
    y = (x - _wide(mean, x)) * _wide(scale, x)
    return y if weight is None or bias is None else y * _wide(weight, x) + _wide(bias, x)


def batch_norm_backward_reduce(
    dy: Tensor, x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor | None, *needed: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    total, along = dy.sum(dim=_axes(x)), (dy * (x - _wide(mean, x))).sum(dim=_axes(x))
    return total, along, along * scale, total


def batch_norm_backward_elemt(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    weight: Tensor | None,
    total: Tensor,
    along: Tensor,
    counts: Tensor,
) -> Tensor:
    count = counts.sum()
    centred = dy - _wide(total / count, x) - (x - _wide(mean, x)) * _wide(scale**2 * along / count, x)
    return centred * _wide(scale if weight is None else scale * weight, x)
