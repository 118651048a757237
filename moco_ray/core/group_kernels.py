"""The kernels of `group_normalize.py`: images are channels-last, the pixels of a group rows of one (rows, channels) matrix."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def moments_kernel(
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
def join_moments_kernel(
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
def normalize_kernel(
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
    """Normalised x of one tile of one group: y (groups, rows, channels)."""
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
def slopes_kernel(
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
def join_slopes_kernel(
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
def dx_kernel(
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
    """Gradient of x of one tile of one group: dx (groups, rows, channels)."""
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
