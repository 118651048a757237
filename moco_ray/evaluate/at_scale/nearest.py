"""The nearest images of many to each of some queries, found where the many are encoded: only what is near travels."""

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
from moco_ray.evaluate.at_scale.keys import CHUNK_ELEMENTS, Found, Nearest, candidates

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

    Of what is less near than k images that this worker has seen, nothing is said: they are said, here or by whoever does a
    lost chunk again. No worker may see an image twice, and none does: one that has lost a result is ended.
    """
    queries, best = prepared.features[name], prepared.best[name]
    if not len(bank):
        return Found(counts=np.zeros(len(queries), np.int32), keys=np.zeros(0, np.int64))
    bank = F.normalize(bank.to(queries.dtype), dim=1)
    bank_places, bank_ids = (torch.tensor(part).to(bank.device) for part in (places, ids))  # they may be read-only
    counts, keys = [], []
    for rows in torch.arange(len(queries), device=bank.device).split(max(1, CHUNK_ELEMENTS // len(bank))):
        similarities = queries[rows] @ bank.T  # (n, M)
        is_own = prepared.is_in(rows, bank_ids)
        told, of_row = candidates(similarities, bank_places, best.keys[rows], is_own)
        best.merge(rows, of_row, told)
        counts.append(of_row.int().cpu())
        keys.append(told.cpu())
    return Found(counts=torch.cat(counts).numpy(), keys=torch.cat(keys).numpy())
