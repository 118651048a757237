"""MoCo v1 and v2: two encoders, a queue, InfoNCE."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco_ray.core.encoders import Encoder, key_encoder_of
from moco_ray.core.queue import Queue


@dataclass(frozen=True, kw_only=True)
class MoCoConfig:
    """Momentum contrast. Defaults are MoCo v2's (arXiv:2003.04297)."""

    queue_size: int | None = 65536
    """Keys in the dictionary (the paper's K). None: half the images, at most 65536."""
    temperature: float = 0.2
    """Temperature of InfoNCE (tau): 0.07 in v1, 0.2 in v2."""
    encoder_momentum: float = 0.999
    """Momentum of the key encoder (the paper's m)."""
    shuffle_bn: bool = True
    """Shuffle key views among BatchNorm groups, so that a query and its key share no batch statistics."""


class MoCo(nn.Module):
    """All that training changes, but for the optimizer: query encoder, key encoder and queue."""

    def __init__(self, query_encoder: Encoder, config: MoCoConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.query_encoder = query_encoder
        self.key_encoder = key_encoder_of(query_encoder)
        assert config.queue_size is not None, "sized from the data before the model is built"
        self.queue = Queue(config.queue_size, query_encoder.dim, generator)


def info_nce_logits(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Logits of the (K+1)-way classification in which the key of a query is class 0 (arXiv:1911.05722, Eq. 1).

    Args:
        q: (N, dim) normalised queries.
        k: (N, dim) their keys, normalised, without gradient.
        queue: (K, dim) normalised negatives.
        temperature: tau.

    Returns:
        (N, 1 + K).
    """
    positive = (q * k).sum(dim=1, keepdim=True)  # (N, 1)
    negative = q @ queue.T  # (N, K)
    return torch.cat([positive, negative], dim=1) / temperature


def info_nce(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the InfoNCE losses of N queries, and how many of them find their key first.

    Args:
        logits: (N, 1 + K), the positive in column 0.

    Returns:
        loss: () sum over the queries.
        num_correct: () queries whose positive is their largest logit.
    """
    labels = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return loss, (logits.detach().argmax(dim=1) == 0).sum()
