"""Groups of images whose features are nearly the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_TILE_ELEMENTS = 1 << 24
_ROUNDING = 1e-6  # of the cosine of a vector with itself


class Groups:
    """Which of n things belong together, as pairs of them are told."""

    def __init__(self, n: int) -> None:
        self.labels = np.arange(n)
        """(n,) the least of those that each belongs to."""

    def join(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        """Things a (m,) belong together with things b (m,), pair by pair."""
        labels = self.labels
        while len(a):
            low, high = np.minimum(labels[a], labels[b]), np.maximum(labels[a], labels[b])
            apart = low < high
            a, b, low, high = a[apart], b[apart], low[apart], high[apart]
            np.minimum.at(labels, high, low)
            while True:  # every label is one that labels itself
                shorter = labels[labels]
                if np.array_equal(shorter, labels):
                    break
                labels[:] = shorter

    def of_several(self) -> list[NDArray[np.int64]]:
        """The groups of two or more, the largest first, each ascending."""
        order = np.argsort(self.labels, kind="stable")
        cuts = np.flatnonzero(np.diff(self.labels[order])) + 1
        groups = [group for group in np.split(order, cuts) if len(group) > 1]
        return sorted(groups, key=lambda group: (-len(group), int(group[0])))


def similar_pairs(
    left: Tensor, right: Tensor, threshold: float, *, is_same: bool = False
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of unit vectors (n, d) and (m, d) whose cosine is at least a threshold, but for rounding: their numbers, a few at a time.

    Args:
        left: Unit vectors.
        right: Others, or the same.
        threshold: Least cosine.
        is_same: Whether both are the same: then each pair is found once, and none with itself.
    """
    for rows in torch.arange(len(left), device=left.device).split(max(1, _TILE_ELEMENTS // max(1, len(right)))):
        is_similar = left[rows] @ right.T >= threshold - _ROUNDING  # (r, m)
        if is_same:
            is_similar &= torch.arange(len(right), device=right.device) > rows[:, None]
        row, column = is_similar.nonzero(as_tuple=True)
        yield rows[row].cpu().numpy(), column.cpu().numpy()
