"""Neighbours as numbers, and the nearest of all that are told.

A neighbour is one number, its key: the similarity's bits above those that tell the image, so that keys are in the order of
similarity, no two are equal, and of two images that are equally near the first one wins, whoever has found them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NO_KEY = -(1 << 63)
"""Of no image at all."""
CHUNK_ELEMENTS = 1 << 24
"""Of a matrix of similarities; their keys are 128 MiB."""
_LOW = (1 << 32) - 1


@dataclass(frozen=True, kw_only=True)
class Found:
    """Neighbours that a chunk holds, of each query as many as may be among its nearest."""

    counts: NDArray[np.int32]
    """(N,) how many, of each query."""
    keys: NDArray[np.int64]
    """(sum of counts,) one query after the other."""


def candidates(
    similarities: Tensor, places: Tensor, best: Tensor, is_own: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Keys of the images that may be among the nearest, row after row, and how many there are of each row.

    Args:
        similarities: (n, M); changed.
        places: (M,) of the images.
        best: (n, k) keys of the nearest so far.
        is_own: Rows and columns of what is not to be counted.
    """
    similarities[is_own] = -torch.inf
    n, k = best.shape
    is_near = (similarities >= similarities_of(best[:, -1:])) & (similarities > -torch.inf)
    if int(is_near.sum()) <= n * k // 2:  # most of them need no keys
        row, column = is_near.nonzero(as_tuple=True)
        return keys_of(similarities[row, column], places[column]), torch.bincount(row, minlength=n)
    near = keys_of(similarities, places).masked_fill_(~is_near, NO_KEY).topk(min(k, len(places)), dim=1).values
    is_told = near > NO_KEY
    return near[is_told], is_told.sum(dim=1)


def keys_of(similarities: Tensor, places: Tensor) -> Tensor:
    """Keys int64 (n, M) of similarities (n, M) to the images at some places (M,) of a set, below 2^32."""
    bits = (similarities.float() + 0.0).view(torch.int32).long()  # + 0.0: of two zeros, one
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # in the order of the numbers
    return (ordered << 32) | (_LOW - places)


def places_of(keys: Tensor) -> Tensor:
    """Places of the images; -1 where there is none."""
    return (_LOW - (keys & _LOW)).where(keys > NO_KEY, -1)


def similarities_of(keys: Tensor) -> Tensor:
    """Similarities float32; -inf where there is no image."""
    ordered = keys >> 32
    bits = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).int()
    return bits.view(torch.float32).where(keys > NO_KEY, -torch.inf)


class Nearest:
    """The nearest of all that were found, whatever the order in which that is told."""

    def __init__(self, num_queries: int, k: int, device: torch.device | None = None) -> None:
        self.keys = torch.full((num_queries, k), NO_KEY, device=device)
        """(N, k), the nearest first."""

    def add(self, found: Found) -> None:
        """Merge what a chunk holds."""
        counts, keys = (torch.from_numpy(part.astype(np.int64)) for part in (found.counts, found.keys))
        self.merge(torch.arange(len(counts)), counts, keys)

    def merge(self, rows: Tensor, counts: Tensor, keys: Tensor) -> None:
        """Merge keys (sum of counts,), so many (n,) for each of some rows (n,)."""
        if not len(keys):
            return
        starts = counts.cumsum(0) - counts
        k = self.keys.shape[1]
        for some in counts.nonzero().flatten().split(max(1, CHUNK_ELEMENTS // (4 * k))):
            column = torch.arange(int(counts[some].max()), device=keys.device)
            at = (starts[some, None] + column).clamp_(max=len(keys) - 1)  # (n, widest)
            new = keys[at].masked_fill_(column >= counts[some, None], NO_KEY)
            merged = torch.cat([self.keys[rows[some]], new], dim=1)
            self.keys[rows[some]] = merged.topk(k, dim=1).values
