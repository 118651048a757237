from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from moco_ray.evaluate.at_scale.search import Vectors, mean_of, near_duplicates, similarities_to_kept

DIM = 97


def reader(vectors: np.ndarray):  # type: ignore[no-untyped-def]
    rows = np.split(np.arange(len(vectors)), 2)

    def read(numbers: Sequence[int] | None = None) -> Iterator[Vectors]:
        for number in range(2) if numbers is None else numbers:
            yield Vectors(rows=rows[number], vectors=vectors[rows[number]])

    return read, [len(part) for part in rows]


def unit(n: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_identical_vectors_are_found_at_a_threshold_of_one(copies: int) -> None:
    read, sizes = reader(np.tile(unit(100, 0), (copies, 1)))
    groups = near_duplicates(read, sizes, DIM, 1.0, mean_of(read(), DIM)).of_several()
    assert [len(group) for group in groups] == [copies] * (100 if copies > 1 else 0)


def test_if_all_vectors_are_equal_they_are_one_group() -> None:
    read, sizes = reader(np.tile(unit(1, 0), (300, 1)))
    center = mean_of(read(), DIM)
    (group,) = near_duplicates(read, sizes, DIM, 1.0, center).of_several()
    assert len(group) == 300
    similar = similarities_to_kept(read, dict.fromkeys(range(300), 0), center)
    assert set(similar.values()) == {1.0}
