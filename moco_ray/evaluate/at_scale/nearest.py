"""The nearest images of many to each of some queries, found where the many are encoded: only what is near travels.

A neighbour is one number, its key: the similarity's bits above those that tell the image, so that keys are in the order of
similarity, no two are equal, and of two images that are equally near the first one wins, whoever has found them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from moco_ray.core.precision import weights_of
from moco_ray.evaluate.at_scale.encoding import Chunk, Encoding, FloatArray, encode_on_device

NO_KEY = -(1 << 63)
"""Of no image at all."""
_LOW = (1 << 32) - 1
_CHUNK_ELEMENTS = 1 << 24  # of a matrix of similarities; their keys are 128 MiB
_numbers = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Images whose neighbours are looked for."""

    key: str
    """Tells these queries from others that a worker has seen."""
    features: Mapping[str, FloatArray]
    """By module: (N, d)."""
    ids: NDArray[np.int64]
    """(N,) identities; none is its own neighbour."""
    k: int
    """How many neighbours."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Neighbours that a chunk holds, of each query as many as may be among its nearest."""

    counts: NDArray[np.int32]
    """(N,) how many, of each query."""
    keys: NDArray[np.int64]
    """(sum of counts,) one query after the other."""


@dataclass(frozen=True, kw_only=True)
class ChunkFound:
    """What a chunk of the bank holds."""

    found: dict[str, Found]
    """By module."""
    num_images: int
    """Images that decode."""
    bad: dict[int, str]
    """Places of those that do not, and why."""


class _Prepared:
    """The queries on a worker's device, and how near the k-th neighbour is at least, by what this worker has seen."""

    def __init__(self, encoding: Encoding, queries: Queries) -> None:
        dtype, device = weights_of(encoding.spec.dtype), encoding.device
        self.features = {
            name: F.normalize(torch.tensor(part).to(device, dtype), dim=1) for name, part in queries.features.items()
        }
        self.ids = torch.tensor(queries.ids).to(device)
        self.best = {name: Nearest(len(queries.ids), queries.k, device) for name in queries.features}

    def is_in(self, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Of which of some rows (n,) and images with ids (M,) the image is the same."""
        own = torch.isin(self.ids[rows], ids).nonzero().flatten()  # few or none, and pairs are many
        row, column = (self.ids[rows[own], None] == ids).nonzero(as_tuple=True)
        return own[row], column


def make_queries(features: Mapping[str, FloatArray], ids: NDArray[np.int64], k: int) -> Queries:
    """Queries for `find_in_chunk` and `find_among`."""
    return Queries(key=f"queries {next(_numbers)}", features=features, ids=ids, k=k)


def find_in_chunk(encoding: Encoding, chunk: Chunk, queries: Queries) -> ChunkFound:
    """Encode a chunk of the bank and find what of it is near the queries."""
    bank = encode_on_device(encoding, chunk)
    with encoding.lock:
        prepared = _prepared(encoding, queries)
        found = {name: _find(prepared, name, part, bank.places, bank.ids) for name, part in bank.features.items()}
    return ChunkFound(found=found, num_images=len(bank.places), bad=bank.bad)


def find_among(encoding: Encoding, chunk: Chunk, queries: Queries) -> ChunkFound:
    """Find what of a part of the queries is near the queries."""
    part = slice(chunk.first, chunk.last)
    ids, places = queries.ids[part], np.arange(chunk.first, chunk.last)
    with encoding.lock:
        prepared = _prepared(encoding, queries)
        found = {
            name: _find(prepared, name, torch.tensor(features[part]).to(encoding.device), places, ids)
            for name, features in queries.features.items()
        }
    return ChunkFound(found=found, num_images=len(ids), bad={})


def _prepared(encoding: Encoding, queries: Queries) -> _Prepared:
    found = encoding.kept.get(queries.key)
    if not isinstance(found, _Prepared):
        encoding.kept.clear()
        found = encoding.kept[queries.key] = _Prepared(encoding, queries)
    return found


@torch.inference_mode()
def _find(prepared: _Prepared, name: str, bank: Tensor, places: NDArray[np.int64], ids: NDArray[np.int64]) -> Found:
    """Neighbours in some images (M, d) at these places of the bank.

    Of what is less near than k images that this worker has seen, nothing is said: each of them is said once.
    """
    queries, best = prepared.features[name], prepared.best[name]
    if not len(bank):
        return Found(counts=np.zeros(len(queries), np.int32), keys=np.zeros(0, np.int64))
    bank = F.normalize(bank.to(queries.dtype), dim=1)
    bank_places, bank_ids = (torch.from_numpy(part).to(bank.device) for part in (places, ids))
    counts, keys = [], []
    for rows in torch.arange(len(queries), device=bank.device).split(max(1, _CHUNK_ELEMENTS // len(bank))):
        similarities = queries[rows] @ bank.T  # (n, M)
        is_own = prepared.is_in(rows, bank_ids)
        told, of_row = candidates(similarities, bank_places, best.keys[rows], is_own)
        best.merge(rows, of_row, told)
        counts.append(of_row.int().cpu())
        keys.append(told.cpu())
    return Found(counts=torch.cat(counts).numpy(), keys=torch.cat(keys).numpy())


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
        for some in counts.nonzero().flatten().split(max(1, _CHUNK_ELEMENTS // (4 * k))):
            column = torch.arange(int(counts[some].max()), device=keys.device)
            at = (starts[some, None] + column).clamp_(max=len(keys) - 1)  # (n, widest)
            new = keys[at].masked_fill_(column >= counts[some, None], NO_KEY)
            merged = torch.cat([self.keys[rows[some]], new], dim=1)
            self.keys[rows[some]] = merged.topk(k, dim=1).values
