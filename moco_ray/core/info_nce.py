"""InfoNCE: which of many keys belongs to a query."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Loss(NamedTuple):
    """What a loss says of some queries; sums, so that those of parts of a batch add up."""

    total: Tensor
    """() sum of the losses, with its gradient."""
    num_correct: Tensor
    """() queries whose own key is the most similar of all."""
    cosine: Tensor
    """() sum of the cosines of queries and their own keys."""


def info_nce_logits(q: Tensor, k: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Logits of the (K+1)-way classification in which the key of a query is class 0 (arXiv:1911.05722, Eq. 1).

    Args:
        q: (N, dim) normalised queries.
        k: (N, dim) their keys, normalised, without gradient.
        negatives: (K, dim) normalised negatives.
        temperature: tau.

    Returns:
        (N, 1 + K).
    """
    q = q / temperature  # (N, dim): here, and not in the logits, which are many more
    positive = (q * k).sum(dim=1, keepdim=True)  # (N, 1)
    negative = q @ negatives.T  # (N, K)
    return torch.cat([positive, negative], dim=1)


def info_nce(logits: Tensor, labels: Tensor, temperature: float) -> Loss:
    """InfoNCE of N queries.

    Args:
        logits: (N, classes) similarities of queries and keys over the temperature.
        labels: (N,) int64, the class of each query's own key.
        temperature: tau.
    """
    logit = logits.detach().gather(1, labels[:, None])  # (N, 1)
    return Loss(
        total=F.cross_entropy(logits, labels, reduction="sum"),
        num_correct=(logits.detach().argmax(dim=1) == labels).sum(),
        cosine=logit.sum() * temperature,
    )
