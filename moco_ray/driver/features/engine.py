"""Features of any number of images, from as many workers as there are, in this process a few chunks at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from moco_ray.cluster.pool import choose_pool_workers, open_pool
from moco_ray.cluster.workers import Workers
from moco_ray.config.run import RunConfig
from moco_ray.driver.features.progress import Progress
from moco_ray.evaluate.at_scale.encoding import Chunk, Encoded, Encoding, FloatArray, Spec, chunks_of, encode_chunk
from moco_ray.worker.pool import Pool

R = TypeVar("R")


class Engine:
    """Workers that encode."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def map(
        self, work: Callable[..., R], chunks: Sequence[Chunk], *shared: Any, what: str
    ) -> Iterator[tuple[Chunk, R]]:
        """Do something to each chunk of images, and say how far it is; results come in any order.

        Args:
            work: A function of `moco_ray.evaluate.at_scale`.
            chunks: Of images.
            shared: What it needs besides.
            what: What is done, for people: "features of the queries".
        """
        progress = Progress(what, sum(chunk.last - chunk.first for chunk in chunks))
        for place, result in self._pool.map(work, chunks, *shared):
            progress.add(chunks[place].last - chunks[place].first)
            yield chunks[place], result


@contextmanager
def open_engine(spec: Spec, run: RunConfig, workers: Workers | None = None) -> Iterator[Engine]:
    """Start workers that encode as a specification says; they end with the context.

    Args:
        spec: What is encoded, and how; whether on GPUs is told by the workers.
        run: How many workers, on what, and in which dtype.
        workers: As `choose_pool_workers` has decided; None: that is done here.

    Raises:
        ValueError: The cluster can never have one of them.
    """
    workers = workers or choose_pool_workers(run)
    spec = replace(spec, uses_gpu=workers.uses_gpu, dtype=run.dtype, seed=run.seed)
    with open_pool(partial(Encoding, spec), run, workers) as pool:
        yield Engine(pool)


@dataclass(frozen=True, kw_only=True)
class SetFeatures:
    """Features of the images of a set that decode, in their order."""

    features: dict[str, FloatArray]
    """By module: (n, d)."""
    places: NDArray[np.int64]
    """(n,) which images of the set these are, ascending."""
    ids: NDArray[np.int64]
    """(n,) hashes of the pixels that were encoded."""
    bad: dict[int, str]
    """Places of the images that cannot be had or do not decode, and why."""


def set_features(engine: Engine, spec: Spec, name: str, *, what: str) -> SetFeatures:
    """Features of a whole set, in memory.

    Raises:
        ValueError: None of its images decodes.
    """
    num_images = len(spec.sets[name])
    parts: dict[int, Encoded] = {}
    for chunk, encoded in engine.map(encode_chunk, chunks_of(name, num_images), what=what):
        parts[chunk.first] = encoded
    ordered = [parts[first] for first in sorted(parts) if len(parts[first].places)]
    bad = {place: reason for first in sorted(parts) for place, reason in parts[first].bad.items()}
    if not ordered:
        place, reason = next(iter(bad.items()))
        uri = spec.sets[name].manifest.uri(int(spec.sets[name].rows[place]))
        raise ValueError(f"none of the {num_images:,} images can be decoded (first {uri}: {reason})")
    return SetFeatures(
        features={module: np.concatenate([part.features[module] for part in ordered]) for module in spec.modules},
        places=np.concatenate([part.places for part in ordered]),
        ids=np.concatenate([part.ids for part in ordered]),
        bad=bad,
    )
