"""The loss that contrastive embeddings cannot fall much below."""

from __future__ import annotations

import math

_POINTS = 20_000  # of the integral: right to seven digits and more, from tau = 1e-5 on


def info_nce_floor(num_negatives: int, temperature: float, dim: int) -> float:
    """InfoNCE of embeddings that are as good as they can be: each query is its key, and negatives lie evenly on the sphere.

    That is log(1 + K E[exp((u.v - 1) / tau)]) for u, v uniform on the unit sphere of `dim` dimensions. The uniform
    distribution minimises the mean of exp(u.v / tau) over all distributions, so that no embedding of many images does
    better than this (Wang and Isola 2020, arXiv:2005.10242, Sec. 4.2, Theorem 1 and Proposition 1; there for K towards
    infinity). Few images can: N of them, each unlike all its negatives, reach a mean of (N E - 1) / (N - 1). The bound
    that holds for whatever vectors, log(1 + K exp(-2 / tau)), is reached by two opposite points alone.

    Args:
        num_negatives: Keys of other images that a query is compared with (K).
        temperature: tau.
        dim: Numbers of an embedding.
    """
    return math.log1p(num_negatives * mean_weight(temperature, dim))


def mean_weight(temperature: float, dim: int) -> float:
    """E[exp((u.v - 1) / tau)] of two directions that know nothing of each other, in (0, 1].

    u.v is the cosine of an angle of density sin(angle)^(dim - 2); the mean of exp(u.v / tau) is Bessel's function in the
    constant of the von Mises-Fisher distribution (Mardia and Jupp 2000, Directional Statistics, Sec. 9.3.2), here
    integrated, because that overflows for small tau.
    """
    if dim == 1:  # two points
        return (1 + math.exp(-2 / temperature)) / 2
    weights = total = 0.0
    for point in range(_POINTS):
        angle = math.pi * (point + 0.5) / _POINTS
        density = math.sin(angle) ** (dim - 2)
        total += density
        weights += density * math.exp((math.cos(angle) - 1) / temperature)
    return weights / total
