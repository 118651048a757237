"""Search among vectors that are read a part at a time: nearest neighbours, and groups of near-duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from moco_ray.evaluate.at_scale.duplicates import Groups, similar_pairs
from moco_ray.evaluate.at_scale.encoding import FloatArray
from moco_ray.evaluate.at_scale.keys import Nearest, candidates, places_of, similarities_of

_NOTHING = 1e-6  # rounding, as a share
_HELD_NUMBERS = 1 << 27  # of vectors that others are compared with at once: 512 MiB


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Vectors of some images."""

    rows: NDArray[np.int64]
    """(n,) rows of the manifest, ascending."""
    vectors: FloatArray
    """(n, d)."""


def nearest_rows(
    queries: FloatArray, own: NDArray[np.int64], parts: Iterable[Vectors], k: int
) -> tuple[NDArray[np.int64], FloatArray]:
    """The nearest images of each query.

    Args:
        queries: (N, d).
        own: (N,) the row of each query, which is not its own neighbour; -1 if it is none of them.
        parts: All images.
        k: Of how many.

    Returns:
        (N, k) rows, -1 where there are fewer, and (N, k) cosines, the highest first.
    """
    device = _device()
    wanted = _unit(queries, device)
    found = Nearest(len(queries), k, device)
    rows = torch.arange(len(queries), device=device)
    itself = torch.from_numpy(own).to(device)
    for part in parts:
        if len(part.rows):
            places = torch.from_numpy(part.rows).to(device)
            own_row, own_column = (itself[:, None] == places).nonzero(as_tuple=True)
            cosines = wanted @ _unit(part.vectors, device).T
            keys, counts = candidates(cosines, places, found.keys, (own_row, own_column))
            found.merge(rows, counts, keys)
    return places_of(found.keys).cpu().numpy(), similarities_of(found.keys).cpu().numpy()


def near_duplicates(
    read: Callable[[Sequence[int] | None], Iterator[Vectors]],
    sizes: Sequence[int],
    dim: int,
    threshold: float,
    center: FloatArray,
    tell: Callable[[int], None] = lambda count: None,
) -> Groups:
    """Group images whose features have at least some cosine, from one to the next; exact, in bounded memory.

    Args:
        read: Gives the vectors of the parts with these numbers, or of all, one part after the other.
        sizes: Images of each part.
        dim: Numbers in a vector.
        threshold: Least cosine.
        center: (d,) subtracted before.
        tell: Called with the images that are done since the last call.
    """
    device, groups = _device(), Groups(sum(sizes))
    for held in _together(sizes, max(1, _HELD_NUMBERS // dim)):
        parts = list(read(held))
        rows = np.concatenate([part.rows for part in parts])
        left = _unit(_centered(np.concatenate([part.vectors for part in parts]), center), device)
        for a, b in similar_pairs(left, left, threshold, is_same=True):
            groups.join(rows[a], rows[b])
        for part in read(range(held[-1] + 1, len(sizes))):
            for a, b in similar_pairs(left, _unit(_centered(part.vectors, center), device), threshold):
                groups.join(rows[a], part.rows[b])
        tell(sum(sizes[number] for number in held))
    return groups


def similarities_to_kept(
    read: Callable[[Sequence[int] | None], Iterator[Vectors]], kept_of: Mapping[int, int], center: FloatArray
) -> dict[int, float]:
    """The cosine of each row with the row that is kept for it.

    Args:
        read: As for `near_duplicates`.
        kept_of: Rows, and the row that is kept for each.
        center: (d,) subtracted before.
    """
    kept = np.unique(list(kept_of.values()))
    vectors: dict[int, FloatArray] = {}
    for part in read(None):
        at = np.flatnonzero(np.isin(part.rows, kept))
        vectors |= dict(zip(part.rows[at].tolist(), _normalized(_centered(part.vectors[at], center)), strict=True))
    found: dict[int, float] = {}
    members = np.array(sorted(kept_of), dtype=np.int64)
    for part in read(None):
        at = np.flatnonzero(np.isin(part.rows, members))
        for row, vector in zip(part.rows[at].tolist(), _normalized(_centered(part.vectors[at], center)), strict=True):
            found[row] = float(vector @ vectors[kept_of[row]])
    return found


def mean_of(parts: Iterable[Vectors], dim: int) -> FloatArray:
    """The mean (d,) of unit vectors of the same directions."""
    total, count = np.zeros(dim), 0
    for part in parts:
        total += part.vectors.sum(axis=0, dtype=np.float64)
        count += len(part.rows)
    return (total / max(1, count)).astype(np.float32)


def _together(sizes: Sequence[int], most: int) -> Iterator[range]:
    """Consecutive parts of up to so many images in all, at least one part."""
    first, count = 0, 0
    for number, size in enumerate(sizes):
        if number > first and count + size > most:
            yield range(first, number)
            first, count = number, 0
        count += size
    if first < len(sizes):
        yield range(first, len(sizes))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _unit(vectors: FloatArray, device: torch.device) -> Tensor:
    return F.normalize(torch.tensor(vectors).to(device), dim=1)


def _centered(vectors: FloatArray, center: FloatArray) -> FloatArray:
    """Vectors (n, d) without the center, as (n, d + 1): those equal to it, but for rounding, are alike and like no other."""
    apart = vectors - center
    is_equal = np.linalg.norm(apart, axis=1) <= _NOTHING * np.linalg.norm(center)
    apart[is_equal] = 0
    return np.concatenate([apart, is_equal[:, None].astype(np.float32)], axis=1)


def _normalized(vectors: FloatArray) -> FloatArray:
    return F.normalize(torch.tensor(vectors), dim=1).numpy()
