"""Heads with BatchNorm: the projectors and predictors of MoCo v3."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def bn_mlp(in_dim: int, hidden_dim: int, out_dim: int, *, num_layers: int, last_bn: bool) -> nn.Sequential:
    """Build an MLP as in MoCo v3 (Chen et al. 2021, arXiv:2104.02057, Sec. 3 and 4).

    Linear layers without biases; BatchNorm and ReLU after each hidden one; after the last one, with last_bn, a
    BatchNorm without scale and shift.

    Args:
        in_dim: Width of the input.
        hidden_dim: Width of hidden layers.
        out_dim: Width of the output.
        num_layers: Linear layers.
        last_bn: Whether the output is normalised over the batch.
    """
    widths = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
    layers: list[nn.Module] = []
    for index, (width, next_width) in enumerate(pairwise(widths), start=1):
        layers.append(nn.Linear(width, next_width, bias=False))
        if index < num_layers:
            layers += [nn.BatchNorm1d(next_width), nn.ReLU(inplace=True)]
        elif last_bn:
            layers.append(nn.BatchNorm1d(next_width, affine=False))
    return nn.Sequential(*layers)
