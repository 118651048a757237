"""The order in which a run reads rows: a pure function of (seed, epoch), without an array of all rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moco_ray.core.hashing import hash64

# Fewer leave visible bias in permutations of half a dozen rows; 16 cost 0.4 us a row.
_ROUNDS = 16
# Words that keep the three uses of one seed apart.
_ROWS, _CHUNKS, _WINDOW = 1, 2, 3

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Order:
    """Row of every position of a run: epoch = position // num_rows, and each epoch is a bijection.

    Without chunks, an epoch is a keyed permutation of all rows. With chunks (rows stored together), chunks are
    permuted over the whole data set, and rows are then shuffled inside each window, so that a task that makes
    one global batch reads whole chunks.
    """

    seed: int
    """Seed of the order; two seeds give unrelated orders."""
    num_rows: int
    """Rows in an epoch, at least 1."""
    chunk_starts: IntArray | None
    """First row of every chunk, ascending from 0 (chunks tile the rows); None where rows stand alone."""
    window: int
    """Positions inside which rows of chunks are shuffled: one global batch. Unused without chunks."""
    _epoch_cache: dict[int, tuple[IntArray, IntArray]] = field(default_factory=dict, repr=False)
    """Last epochs' (first row, end position) of each chunk, in reading order."""

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: If there are no rows, the window is empty or the chunks do not tile the rows.
        """
        if self.num_rows < 1:
            raise ValueError(f"num_rows is {self.num_rows}; an order needs at least one row")
        if self.window < 1:
            raise ValueError(f"window is {self.window}; use at least 1, normally the global batch size")
        starts = self.chunk_starts
        if starts is not None:
            tiles = len(starts) > 0 and starts[0] == 0 and starts[-1] < self.num_rows
            if not tiles or np.any(np.diff(starts) <= 0):
                raise ValueError(
                    "chunk_starts must ascend strictly from 0 and stay below num_rows; "
                    f"it has {len(starts)} entries for {self.num_rows} rows"
                )

    def __getstate__(self) -> dict[str, object]:
        """Leave the cache out of pickles."""
        return {**self.__dict__, "_epoch_cache": {}}

    def rows(self, positions: IntArray) -> IntArray:
        """Map positions of the run to rows.

        Args:
            positions: int64, any shape and order, each >= 0.

        Returns:
            int64 rows in [0, num_rows), of the same shape.
        """
        positions = np.asarray(positions, dtype=np.int64)
        epochs, offsets = np.divmod(positions, self.num_rows)
        if self.chunk_starts is None:
            return keyed_permutation(offsets, self.num_rows, hash64(self.seed, _ROWS, epochs))
        offsets = self._shuffle_in_window(positions, epochs, offsets)
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._read_chunks(int(epoch), offsets[here])
        return rows

    def _shuffle_in_window(self, positions: IntArray, epochs: IntArray, offsets: IntArray) -> IntArray:
        """Permute offsets among those that share both a window and an epoch."""
        windows = positions // self.window
        first = np.maximum(windows * self.window, epochs * self.num_rows)
        end = np.minimum((windows + 1) * self.window, (epochs + 1) * self.num_rows)
        moved = keyed_permutation(positions - first, end - first, hash64(self.seed, _WINDOW, epochs, windows))
        return offsets + (first + moved - positions)

    def _read_chunks(self, epoch: int, offsets: IntArray) -> IntArray:
        """Map offsets within one epoch to rows, chunk by chunk in the epoch's order."""
        firsts, ends = self._chunks_of(epoch)
        at = np.searchsorted(ends, offsets, side="right")
        begins = np.where(at > 0, ends[at - 1], 0)
        return firsts[at] + (offsets - begins)

    def _chunks_of(self, epoch: int) -> tuple[IntArray, IntArray]:
        assert self.chunk_starts is not None
        if epoch not in self._epoch_cache:
            num_chunks = len(self.chunk_starts)
            key = hash64(self.seed, _CHUNKS, epoch)
            reading = keyed_permutation(np.arange(num_chunks, dtype=np.int64), num_chunks, key)
            lengths = np.diff(self.chunk_starts, append=self.num_rows)
            # A batch may straddle two epochs: keep both, and no more.
            while len(self._epoch_cache) > 1:
                self._epoch_cache.pop(next(iter(self._epoch_cache)))
            self._epoch_cache[epoch] = (self.chunk_starts[reading], np.cumsum(lengths[reading]))
        return self._epoch_cache[epoch]


def keyed_permutation(values: IntArray, size: int | IntArray, key: NDArray[np.uint64]) -> IntArray:
    """Apply a pseudo-random permutation of range(size) to each value, without storing it.

    A Feistel network over Z_a x Z_b with modular addition, where a * b is the smallest such grid that holds
    `size` (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", their generalised Feistel); values
    that land in the grid but outside the range walk on along their cycle until they are inside.

    Args:
        values: int64, each in [0, size).
        size: Length of the range, a number or one for each value.
        key: 64-bit key, one or one for each value. Equal size and key: the same permutation.

    Returns:
        int64 array of the shape of `values`.
    """
    shape = values.shape
    flat = values.ravel()
    sizes = np.broadcast_to(np.asarray(size, dtype=np.int64), shape).ravel()
    keys = np.broadcast_to(key.reshape(shape) if key.size == values.size else key, shape).ravel()
    high = np.ceil(np.sqrt(sizes)).astype(np.int64)
    low = -(-sizes // np.maximum(high, 1))
    result = flat.copy()
    walking = np.arange(len(flat))
    while len(walking):
        result[walking] = _feistel(result[walking], high[walking], low[walking], keys[walking])
        walking = walking[result[walking] >= sizes[walking]]
    return result.reshape(shape)


def _feistel(values: IntArray, high: IntArray, low: IntArray, keys: NDArray[np.uint64]) -> IntArray:
    left, right = np.divmod(values, low)
    for step in range(_ROUNDS):
        if step % 2 == 0:
            left = (left + _below(high, hash64(keys, step, right))) % high
        else:
            right = (right + _below(low, hash64(keys, step, left))) % low
    return left * low + right


def _below(limit: IntArray, bits: NDArray[np.uint64]) -> IntArray:
    return (bits % limit.astype(np.uint64)).astype(np.int64)
