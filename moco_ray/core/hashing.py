"""Counter-based randomness: pure functions of integers, equal on every machine and library version."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def hash64(*words: int | NDArray[np.integer]) -> NDArray[np.uint64]:
    """Hash integers to 64 uniform bits (SplitMix64 finaliser, chained over the words).

    Args:
        words: Integers or integer arrays that broadcast against each other. The order matters.

    Returns:
        uint64 array of the broadcast shape, of at least one dimension.
    """
    state = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            if isinstance(word, int):
                word = np.array(word & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64)
            state = (state ^ word.astype(np.uint64)) + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * _MIX_1
            state = (state ^ (state >> np.uint64(27))) * _MIX_2
            state = state ^ (state >> np.uint64(31))
    return state


def rows_digest(rows: NDArray[np.integer]) -> int:
    """Sum modulo 2^64 of a hash of each row id: equal for equal multisets of rows, whatever the order."""
    return int(hash64(rows).sum(dtype=np.uint64)) if len(rows) else 0
