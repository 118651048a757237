"""BatchNorm of several groups on a GPU in three kernels a pass, whatever their number.

A pass over the rows of the groups takes partial sums on many blocks at once, joins those of each group, and applies the result.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from moco_ray.core import group_kernels

_TILE = 4096  # numbers that a block holds at once
_MOST_CHANNELS = 64  # of a block: 128 bytes of bfloat16 in a row
_BLOCKS = 1024  # about, where there is enough to do: some for each multiprocessor of the largest GPUs
_JOINED_CHANNELS = 8  # of a block that joins partial sums: few, since it has all splits at once


class GroupNormalize(torch.autograd.Function):
    """BatchNorm of each of several groups of channels-last images, or of (N, C)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        seen: int,
        group_size: int,
        eps: float,
    ) -> Tensor:
        """Of x (G g, C, ...); mean and var (C,) become those over the groups seen before and these."""
        layout = _Layout(x, group_size)
        output = torch.empty_like(x)
        stats = torch.empty((layout.groups, 2, layout.channels), dtype=layout.dtype, device=x.device)
        partial = layout.partial(x)
        size = (layout.rows, layout.channels)
        with torch.cuda.device_of(x):
            group_kernels.moments_kernel[layout.split_grid](x, partial, *size, layout.rows_a_split, **layout.tile)
            group_kernels.join_moments_kernel[layout.channel_grid](
                partial,
                stats,
                mean,
                var,
                layout.groups,
                layout.splits,
                *size,
                layout.rows_a_split,
                seen,
                EPS=eps,
                **layout.joined,
            )
            group_kernels.normalize_kernel[layout.tile_grid](
                x, stats, weight, bias, output, *size, IS_AFFINE=weight is not None, **layout.tile
            )
        ctx.save_for_backward(x, weight, stats)
        ctx.group_size = group_size
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias."""
        x, weight, stats = ctx.saved_tensors
        layout = _Layout(x, ctx.group_size)
        dy = as_rows(gradients[0])
        dx, sums, partial = torch.empty_like(x), torch.empty_like(stats), layout.partial(x)
        of_parameters = torch.empty((2, layout.channels), dtype=layout.dtype, device=x.device)
        size = (layout.rows, layout.channels)
        with torch.cuda.device_of(x):
            group_kernels.slopes_kernel[layout.split_grid](
                dy, x, stats, partial, *size, layout.rows_a_split, **layout.tile
            )
            group_kernels.join_slopes_kernel[layout.channel_grid](
                partial,
                stats,
                sums,
                of_parameters,
                layout.groups,
                layout.splits,
                layout.channels,
                **layout.joined,
            )
            group_kernels.dx_kernel[layout.tile_grid](
                dy, x, stats, sums, weight, dx, *size, IS_AFFINE=weight is not None, **layout.tile
            )
        of_weight, of_bias = (None, None) if weight is None else of_parameters.to(weight.dtype)
        return dx, of_weight, of_bias, *[None] * 5


class _Layout:
    """How the work on a tensor is dealt to blocks."""

    def __init__(self, x: Tensor, group_size: int) -> None:
        self.channels = x.shape[1]
        self.groups = len(x) // group_size
        self.rows = x.numel() // self.channels // self.groups
        self.dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        tile_channels = min(_MOST_CHANNELS, triton.next_power_of_2(self.channels))
        tile_rows = max(1, min(_TILE // tile_channels, triton.next_power_of_2(self.rows)))
        self.tile = {
            "TILE_ROWS": tile_rows,
            "TILE_CHANNELS": tile_channels,
            "ACC": tl.float64 if x.dtype == torch.float64 else tl.float32,
        }
        across = triton.cdiv(self.channels, tile_channels)
        tiles = triton.cdiv(self.rows, tile_rows)
        self.splits = max(1, min(tiles, _BLOCKS // (across * self.groups)))
        self.rows_a_split = triton.cdiv(tiles, self.splits) * tile_rows
        self.splits = triton.cdiv(self.rows, self.rows_a_split)
        self.split_grid = (self.splits, across, self.groups)
        self.tile_grid = (tiles, across, self.groups)
        self.joined = {
            "TILE_SPLITS": triton.next_power_of_2(self.splits),
            "TILE_CHANNELS": min(_JOINED_CHANNELS, triton.next_power_of_2(self.channels)),
            "ACC": self.tile["ACC"],
        }
        self.channel_grid = (triton.cdiv(self.channels, self.joined["TILE_CHANNELS"]),)

    def partial(self, x: Tensor) -> Tensor:
        return torch.empty((self.groups, self.splits, 2, self.channels), dtype=self.dtype, device=x.device)


def as_rows(x: Tensor) -> Tensor:
    """The same values with all channels of a pixel side by side; the tensor itself where they are."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()
