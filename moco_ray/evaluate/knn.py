"""Weighted k-nearest-neighbour classification, the usual free measure of self-supervised features."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# Bounds the similarity matrix of a chunk: 2^25 float32 numbers are 128 MiB; smaller products take longer in all.
_CHUNK_ELEMENTS = 1 << 25
_OWN_AT_ONCE = 64  # queries that are in the bank: their similarities are copied


def knn_predict(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    *,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
    bank_ids: Tensor | None = None,
    query_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Classify queries by a vote of the k most similar bank images, of weight exp(similarity / temperature).

    Args:
        bank: (M, d) float features, of any length: similarity is the cosine. All is computed on its device, in chunks,
            wherever the other arguments are.
        bank_labels: (M,) int64 in [0, num_classes).
        queries: (N, d) float features.
        num_classes: Number of classes.
        k: Number of neighbours; the whole bank where it has fewer images.
        temperature: Of the weights; > 0.
        bank_ids: (M,) int64 identities. A query never sees a bank image of its own identity, so an image that
            is also in the bank (leave-one-out, or a duplicate file) does not vote for itself.
        query_ids: (N,) int64 identities; given with bank_ids or not at all.

    Returns:
        (N,) int64 predicted classes, -1 where no neighbour was left, and (N, min(k, M)) int64 bank rows, the
        most similar first (rows of the query's own identity come last), on the bank's device.

    Raises:
        ValueError: An empty bank, k < 1 or temperature <= 0.

    Source: Wu et al. 2018, arXiv:1805.01978, Sec. 3.4; k and temperature as in MoCo's CIFAR-10 notebook.
    """
    if len(bank) == 0:
        raise ValueError("kNN has no labelled images to compare with; give at least one")
    if k < 1:
        raise ValueError(f"eval.k is {k}; use at least 1 neighbour")
    if temperature <= 0:
        raise ValueError(f"eval.temperature is {temperature}; use a value above 0")
    bank_labels = bank_labels.to(bank.device)
    predictions, neighbours = [], []
    for nearest, rows in nearest_neighbours(bank, queries, k, bank_ids, query_ids):
        predictions.append(_vote(nearest, bank_labels[rows], num_classes, temperature))
        neighbours.append(rows)
    if not predictions:
        return bank_labels.new_empty(0), bank_labels.new_empty(0, min(k, len(bank)))
    return torch.cat(predictions), torch.cat(neighbours)


def nearest_neighbours(
    bank: Tensor, queries: Tensor, k: int, bank_ids: Tensor | None = None, query_ids: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Find the k most similar bank images of each query, chunk after chunk of the queries.

    Yields:
        (n, k) cosines, the highest first, -inf where only the query's own identity was left, and (n, k) int64 bank rows.
        k is the size of the bank where that has fewer images. Arguments are those of `knn_predict`.
    """
    device = bank.device
    bank = F.normalize(bank.float(), dim=1)  # (M, d)
    queries = F.normalize(queries.to(device).float(), dim=1)  # (N, d)
    if bank_ids is not None and query_ids is not None:
        bank_ids, query_ids = bank_ids.to(device), query_ids.to(device)
        is_in_bank = torch.isin(query_ids, bank_ids)  # (N,): few or none, and looking costs a pass over all pairs
    chunk = max(1, _CHUNK_ELEMENTS // len(bank))
    for start in range(0, len(queries), chunk):
        similarity = queries[start : start + chunk] @ bank.T  # (n, M)
        if bank_ids is not None and query_ids is not None:
            for own in is_in_bank[start : start + chunk].nonzero().flatten().split(_OWN_AT_ONCE):  # (m,)
                is_same = query_ids[start : start + chunk][own, None] == bank_ids  # (m, M)
                similarity[own] = similarity[own].masked_fill_(is_same, -torch.inf)
        nearest, rows = similarity.topk(min(k, len(bank)), dim=1)  # both (n, k)
        yield nearest, rows


def _vote(nearest: Tensor, labels: Tensor, num_classes: int, temperature: float) -> Tensor:
    """Return the classes (n,) with the largest weight from similarities (n, k) and labels (n, k)."""
    counted = votes(nearest, labels, num_classes, temperature)
    return counted.argmax(dim=1).where(torch.isfinite(nearest[:, 0]), torch.full_like(labels[:, 0], -1))


def votes(nearest: Tensor, labels: Tensor, num_classes: int, temperature: float) -> Tensor:
    """Return the weight (n, classes) of each class from similarities (n, k), the highest first, and labels (n, k).

    Where the first is -inf, there is no neighbour, and all weights are 0.
    """
    best = nearest[:, :1]  # (n, 1); -inf where every neighbour was masked
    # Relative to the best neighbour: the same vote, and small temperatures neither overflow nor underflow.
    weights = ((nearest - best.where(torch.isfinite(best), torch.zeros_like(best))) / temperature).exp()  # (n, k)
    return weights.new_zeros(len(weights), num_classes).scatter_add_(1, labels, weights)


def knn_top1(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
    bank_ids: Tensor | None = None,
    query_ids: Tensor | None = None,
) -> float:
    """Return the percentage of queries that `knn_predict` classifies as query_labels (N,) say.

    The other arguments are those of `knn_predict`.

    Raises:
        ValueError: No queries, or what `knn_predict` raises.
    """
    if len(queries) == 0:
        raise ValueError("kNN has no labelled images to classify; give at least one")
    predictions, _ = knn_predict(
        bank,
        bank_labels,
        queries,
        num_classes=num_classes,
        k=k,
        temperature=temperature,
        bank_ids=bank_ids,
        query_ids=query_ids,
    )
    return 100.0 * float((predictions == query_labels.to(predictions.device)).double().mean())
