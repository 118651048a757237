"""Label-free measures of a representation: its effective rank, alignment and uniformity."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def rankme(features: Tensor) -> float:
    """Return the effective rank of features (N, d): between 1 (collapsed) and min(N, d) (isotropic).

    It is exp of the entropy of the singular values, normalised to sum to one. All-zero features have rank 0.
    Differs: in float64 and with 0 log 0 = 0 instead of an epsilon, so that exact cases have exact values.

    Source: Garrido et al. 2023, arXiv:2210.02885, Eq. 1; it does not centre the features.
    """
    singular = torch.linalg.svdvals(features.double().cpu())  # (min(N, d),); in float64 most GPUs are slower
    if not singular.any():
        return 0.0
    p = singular / singular.sum()
    return math.exp(float(torch.special.entr(p).sum()))


def alignment(queries: Tensor, keys: Tensor) -> float:
    """Return the mean squared distance of the embeddings (N, d) of two views: 0 (best) to 4.

    The rows are normalised here.

    Source: Wang and Isola 2020, arXiv:2005.10242, Sec. 4.1, alpha = 2.
    """
    q, k = F.normalize(queries.double(), dim=1), F.normalize(keys.double(), dim=1)
    return float((q - k).square().sum(dim=1).mean())


def uniformity(embeddings: Tensor) -> float:
    """Return log mean exp(-2 distance^2) over all pairs of embeddings (N, d): 0 (collapsed) to about -4.

    The rows are normalised here. Lower is more uniform. Quadratic in N: give it hundreds of rows.

    Raises:
        ValueError: Fewer than two rows.

    Source: Wang and Isola 2020, arXiv:2005.10242, Sec. 4.1, t = 2.
    """
    if len(embeddings) < 2:
        raise ValueError(f"uniformity compares pairs and got {len(embeddings)} image(s); give at least 2")
    squared = F.pdist(F.normalize(embeddings.double(), dim=1)).square()  # (N (N - 1) / 2,)
    return float(torch.logsumexp(-2 * squared, dim=0)) - math.log(len(squared))
