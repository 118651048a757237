"""What a kNN accuracy is worth: how many neighbours vote, what guessing gives, and how exact the figure is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MOST_NEIGHBOURS = 200


def default_neighbours(bank_labels: NDArray[np.int64]) -> int:
    """How many neighbours vote where nobody has said so: 200, and fewer where classes are small.

    With more neighbours than a class has images the others outvote it, however good the features are. Half of the median
    class of the bank was near the best number for classes of 5 to 100 images, and keeps the usual 200 from 400 on.

    Args:
        bank_labels: (M,) classes of the labelled images, at least one.
    """
    sizes = np.unique(bank_labels, return_counts=True)[1]
    return int(min(_MOST_NEIGHBOURS, max(1, np.median(sizes) // 2)))


def knn_context(
    bank_labels: NDArray[np.int64], query_labels: NDArray[np.int64], *, top1: float, k: int
) -> dict[str, float]:
    """What a kNN accuracy must be compared with.

    Args:
        bank_labels: (M,) classes of the images that vote.
        query_labels: (N,) classes of the images that were classified.
        top1: The accuracy, in percent.
        k: Neighbours that voted.

    Returns:
        eval/knn_k; eval/knn_bank and eval/knn_queries, images of both; eval/knn_chance, percent that guessing among the
        classes gives; eval/knn_largest_class, percent that always naming the bank's largest class gives; eval/knn_error,
        the binomial standard error in points.
    """
    classes, sizes = np.unique(bank_labels, return_counts=True)
    n = len(query_labels)
    p = min(max(top1 / 100, 1 / (n + 2)), 1 - 1 / (n + 2))  # at 0 and 100 % the figure is not exact either
    return {
        "eval/knn_k": float(k),
        "eval/knn_bank": float(len(bank_labels)),
        "eval/knn_queries": float(n),
        "eval/knn_chance": 100.0 / len(classes),
        "eval/knn_largest_class": 100.0 * float(np.mean(query_labels == classes[np.argmax(sizes)])),
        "eval/knn_error": 100.0 * float(np.sqrt(p * (1 - p) / n)),
    }
