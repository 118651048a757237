"""BatchNorm of several groups on a GPU in three kernels a pass, whatever their number.

Images are channels-last, so the pixels of a group are consecutive rows of one (rows, channels) matrix. A pass over them
takes partial sums on many blocks at once, joins those of each group, and applies the result.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 4096  # numbers that a block holds at once
_MOST_CHANNELS = 64  # of a block: 128 bytes of bfloat16 in a row
_BLOCKS = 1024  # about, where there is enough to do: some for each multiprocessor of the largest GPUs
_JOINED_CHANNELS = 8  # of a block that joins partial sums: few, since it has all splits at once


@triton.jit
def _moments_kernel(
    x,
    partial,
    rows,
    channels,
    rows_a_split,
    TILE_ROWS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Mean and sum of squared deviations of the rows of one split of one group: partial (groups, splits, 2, channels)."""
    split, group = tl.program_id(0), tl.program_id(2)
    c = tl.program_id(1) * TILE_CHANNELS + tl.arange(0, TILE_CHANNELS)
    has_channel = c < channels
    first = split * rows_a_split
    end = tl.minimum(first + rows_a_split, rows)
    start = x + (group.to(tl.int64) * rows) * channels
    seen = tl.zeros((TILE_CHANNELS,), ACC)
    mean = tl.zeros((TILE_CHANNELS,), ACC)
    squares = tl.zeros((TILE_CHANNELS,), ACC)
    for row in range(first, end, TILE_ROWS):
        r = row + tl.arange(0, TILE_ROWS)
        here = (r < end)[:, None] & has_channel[None, :]
        values = tl.load(start + r.to(tl.int64)[:, None] * channels + c[None, :], mask=here, other=0.0).to(ACC)
        count = tl.minimum(end - row, TILE_ROWS).to(ACC)
        tile_mean = tl.sum(values, axis=0) / count
        off = tl.where(here, values - tile_mean[None, :], 0.0)
        delta = tile_mean - mean
        both = seen + count
        mean += delta * (count / both)
        squares += tl.sum(off * off, axis=0) + delta * delta * (seen * count / both)
        seen = both
    out = partial + ((group * tl.num_programs(0) + split) * 2) * channels + c
    tl.store(out, mean, mask=has_channel)
    tl.store(out + channels, squares, mask=has_channel)


@triton.jit
def _join_moments_kernel(
    partial,
    stats,
    running_mean,
    running_var,
    groups,
    splits,
    rows,
    channels,
    rows_a_split,
    seen,
    EPS: tl.constexpr,
    TILE_SPLITS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Mean and 1 / sqrt(var + eps) of each group: stats (groups, 2, channels); the running means take them in turn."""
    c = tl.program_id(0) * TILE_CHANNELS + tl.arange(0, TILE_CHANNELS)
    has_channel = c < channels
    means = tl.load(running_mean + c, mask=has_channel, other=0.0).to(ACC)
    variances = tl.load(running_var + c, mask=has_channel, other=0.0).to(ACC)
    split = tl.arange(0, TILE_SPLITS)
    here = (split < splits)[:, None] & has_channel[None, :]
    counts = tl.maximum(tl.minimum(rows - split * rows_a_split, rows_a_split), 0).to(ACC)[:, None]
    for group in range(groups):
        place = partial + ((group * splits + split) * 2)[:, None] * channels + c[None, :]
        own_means = tl.load(place, mask=here, other=0.0)
        mean = tl.sum(counts * own_means, axis=0) / rows
        off = tl.where(here, own_means - mean[None, :], 0.0)
        squares = tl.sum(tl.load(place + channels, mask=here, other=0.0) + counts * off * off, axis=0)
        out = stats + (group * 2) * channels + c
        tl.store(out, mean, mask=has_channel)
        tl.store(out + channels, 1.0 / tl.sqrt(squares / rows + EPS), mask=has_channel)
        count = (seen + group + 1).to(ACC)
        unbiased = squares / tl.maximum(rows - 1, 1)
        means = tl.where(seen + group == 0, mean, means + (mean - means) / count)
        variances = tl.where(seen + group == 0, unbiased, variances + (unbiased - variances) / count)
    tl.store(running_mean + c, means, mask=has_channel)
    tl.store(running_var + c, variances, mask=has_channel)


@triton.jit
def _normalize_kernel(
    x,
    stats,
    weight,
    bias,
    y,
    rows,
    channels,
    IS_AFFINE: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
    ACC: tl.constexpr,
):
    group = tl.program_id(2)
    r = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    c = tl.program_id(1) * TILE_CHANNELS + tl.arange(0, TILE_CHANNELS)
    has_channel = c < channels
    here = (r < rows)[:, None] & has_channel[None, :]
    place = (group.to(tl.int64) * rows + r.to(tl.int64))[:, None] * channels + c[None, :]
    mean = tl.load(stats + (group * 2) * channels + c, mask=has_channel, other=0.0)
    scale = tl.load(stats + (group * 2 + 1) * channels + c, mask=has_channel, other=0.0)
    shift = tl.zeros((TILE_CHANNELS,), ACC)
    if IS_AFFINE:
        scale *= tl.load(weight + c, mask=has_channel, other=0.0).to(ACC)
        shift += tl.load(bias + c, mask=has_channel, other=0.0).to(ACC)
    values = tl.load(x + place, mask=here, other=0.0).to(ACC)
    tl.store(y + place, (values - mean[None, :]) * scale[None, :] + shift[None, :], mask=here)


@triton.jit
def _slopes_kernel(
    dy,
    x,
    stats,
    partial,
    rows,
    channels,
    rows_a_split,
    TILE_ROWS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Sums of dy and of dy (x - mean) of one split of one group: partial (groups, splits, 2, channels)."""
    split, group = tl.program_id(0), tl.program_id(2)
    c = tl.program_id(1) * TILE_CHANNELS + tl.arange(0, TILE_CHANNELS)
    has_channel = c < channels
    first = split * rows_a_split
    end = tl.minimum(first + rows_a_split, rows)
    mean = tl.load(stats + (group * 2) * channels + c, mask=has_channel, other=0.0)
    total = tl.zeros((TILE_CHANNELS,), ACC)
    along = tl.zeros((TILE_CHANNELS,), ACC)
    for row in range(first, end, TILE_ROWS):
        r = row + tl.arange(0, TILE_ROWS)
        here = (r < end)[:, None] & has_channel[None, :]
        place = (group.to(tl.int64) * rows + r.to(tl.int64))[:, None] * channels + c[None, :]
        slope = tl.load(dy + place, mask=here, other=0.0).to(ACC)
        values = tl.load(x + place, mask=here, other=0.0).to(ACC)
        total += tl.sum(slope, axis=0)
        along += tl.sum(slope * (values - mean[None, :]), axis=0)
    out = partial + ((group * tl.num_programs(0) + split) * 2) * channels + c
    tl.store(out, total, mask=has_channel)
    tl.store(out + channels, along, mask=has_channel)


@triton.jit
def _join_slopes_kernel(
    partial,
    stats,
    sums,
    of_parameters,
    groups,
    splits,
    channels,
    TILE_SPLITS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Sums of each group: sums (groups, 2, channels); gradients of weight and bias: of_parameters (2, channels)."""
    c = tl.program_id(0) * TILE_CHANNELS + tl.arange(0, TILE_CHANNELS)
    has_channel = c < channels
    of_weight = tl.zeros((TILE_CHANNELS,), ACC)
    of_bias = tl.zeros((TILE_CHANNELS,), ACC)
    split = tl.arange(0, TILE_SPLITS)
    here = (split < splits)[:, None] & has_channel[None, :]
    for group in range(groups):
        place = partial + ((group * splits + split) * 2)[:, None] * channels + c[None, :]
        total = tl.sum(tl.load(place, mask=here, other=0.0), axis=0)
        along = tl.sum(tl.load(place + channels, mask=here, other=0.0), axis=0)
        out = sums + (group * 2) * channels + c
        tl.store(out, total, mask=has_channel)
        tl.store(out + channels, along, mask=has_channel)
        of_weight += along * tl.load(stats + (group * 2 + 1) * channels + c, mask=has_channel, other=0.0)
        of_bias += total
    tl.store(of_parameters + c, of_weight, mask=has_channel)
    tl.store(of_parameters + channels + c, of_bias, mask=has_channel)


@triton.jit
def _dx_kernel(
    dy,
    x,
    stats,
    sums,
    weight,
    dx,
    rows,
    channels,
    IS_AFFINE: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
    ACC: tl.constexpr,
):
    group = tl.program_id(2)
    r = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    c = tl.program_id(1) * TILE_CHANNELS + tl.arange(0, TILE_CHANNELS)
    has_channel = c < channels
    here = (r < rows)[:, None] & has_channel[None, :]
    place = (group.to(tl.int64) * rows + r.to(tl.int64))[:, None] * channels + c[None, :]
    mean = tl.load(stats + (group * 2) * channels + c, mask=has_channel, other=0.0)
    scale = tl.load(stats + (group * 2 + 1) * channels + c, mask=has_channel, other=0.0)
    total = tl.load(sums + (group * 2) * channels + c, mask=has_channel, other=0.0) / rows
    along = tl.load(sums + (group * 2 + 1) * channels + c, mask=has_channel, other=0.0) / rows * scale * scale
    if IS_AFFINE:
        scale *= tl.load(weight + c, mask=has_channel, other=0.0).to(ACC)
    slope = tl.load(dy + place, mask=here, other=0.0).to(ACC)
    values = tl.load(x + place, mask=here, other=0.0).to(ACC)
    tl.store(
        dx + place, (slope - total[None, :] - (values - mean[None, :]) * along[None, :]) * scale[None, :], mask=here
    )


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
            _moments_kernel[layout.split_grid](x, partial, *size, layout.rows_a_split, **layout.tile)
            _join_moments_kernel[layout.channel_grid](
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
            _normalize_kernel[layout.tile_grid](
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
            _slopes_kernel[layout.split_grid](dy, x, stats, partial, *size, layout.rows_a_split, **layout.tile)
            _join_slopes_kernel[layout.channel_grid](
                partial,
                stats,
                sums,
                of_parameters,
                layout.groups,
                layout.splits,
                layout.channels,
                **layout.joined,
            )
            _dx_kernel[layout.tile_grid](
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
