"""InfoNCE: which of many keys belongs to a query."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_NEGATIVES_A_CORE = 2048  # of 128 floats each: they and their logits stay in its cache between two products


class Loss(NamedTuple):
    """What a loss says of some queries; sums, so that those of parts of a batch add up."""

    total: Tensor
    """() sum of the losses, with its gradient."""
    num_correct: Tensor
    """() queries whose own key is the most similar of all; of a classifier, images whose class is."""
    cosine: Tensor
    """() sum of the cosines of queries and their own keys; of a classifier, of the probabilities of what is true."""


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
    own = (q * k).sum(dim=1, keepdim=True)  # (N, 1)
    negative = q @ negatives.T  # (N, K)
    return torch.cat([own, negative], dim=1)


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


def info_nce_of_negatives(q: Tensor, k: Tensor, negatives: Tensor, temperature: float) -> Loss:
    """InfoNCE of N queries among their own keys and K negatives: `info_nce(info_nce_logits(...))`, class 0 the own key.

    The gradient is made along with the loss, from one look at the negatives, and nothing is kept of (N, 1 + K).

    Args:
        q: (N, dim) normalised queries; the only one with a gradient.
        k: (N, dim) their keys, normalised.
        negatives: (K, dim) normalised negatives.
        temperature: tau.
    """
    return Loss(*_InfoNCE.apply(q, k, negatives, temperature))  # type: ignore[no-untyped-call]


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, negatives: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        q = q / temperature  # (N, dim)
        own = (q * k).sum(dim=1)  # (N,)
        maxima, sums, pulls = [], [], []  # of each chunk of c negatives, relative to its largest logit
        at_once = _negatives_at_once(negatives)
        room = q.new_empty(len(q), at_once)  # the same memory for all chunks, which stays in the cache
        for chunk in negatives.split(at_once):
            logits = torch.mm(q, chunk.T, out=room[:, : len(chunk)])  # (N, c)
            largest = logits.amax(dim=1)  # (N,)
            weights = logits.sub_(largest[:, None]).exp_()
            maxima.append(largest)
            sums.append(weights.sum(dim=1))
            if ctx.needs_input_grad[0]:
                pulls.append(weights @ chunk)  # (N, dim)
        highest = torch.stack(maxima)  # (chunks, N)
        hardest = highest.amax(dim=0)  # (N,)
        largest = torch.maximum(own, hardest)
        scales = (highest - largest).exp()
        negative = (scales * torch.stack(sums)).sum(dim=0)  # (N,) sum of exp(logit - largest) over the negatives
        total = (own - largest).exp() + negative
        if pulls:
            pull = (scales[:, :, None] * torch.stack(pulls)).sum(dim=0)  # (N, dim)
            ctx.save_for_backward((pull - negative[:, None] * k) / (total[:, None] * temperature))
        losses = largest - own + total.log()
        num_correct, cosine = (own >= hardest).sum(), own.sum() * temperature
        ctx.mark_non_differentiable(num_correct, cosine)
        return losses.sum(), num_correct, cosine

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (of_q,) = ctx.saved_tensors
        return gradients[0] * of_q, None, None, None


def _negatives_at_once(negatives: Tensor) -> int:
    """All on a GPU, whose kernels are few and large that way."""
    return len(negatives) if negatives.is_cuda else min(len(negatives), _NEGATIVES_A_CORE * torch.get_num_threads())
