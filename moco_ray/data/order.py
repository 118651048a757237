"""The order in which a run reads rows: a pure function of (seed, position), without an array of all rows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from moco_ray.core.hashing import hash64
from moco_ray.data.manifest import Manifest
from moco_ray.data.permutation import keyed_permutation

# Words that keep the three uses of one seed apart.
_ROWS, _CHUNKS, _WINDOW = 1, 2, 3
_KEPT_EPOCHS = 4096  # whose swaps a process remembers where each epoch depends on the one before
_EPOCHS_AT_ONCE = 64

IntArray = NDArray[np.int64]
Swaps = tuple[IntArray, IntArray]


@dataclass(frozen=True, eq=False)
class Order:
    """Row of every position of a run: epoch = position // num_rows, and each epoch is a bijection.

    Without chunks, an epoch is a keyed permutation of all rows. With chunks (rows stored together), chunks are
    permuted over the whole data set, and rows are then shuffled inside each window, so that what is read for a
    window is whole chunks. Windows divide an epoch evenly and end where batches do.

    A batch that straddles two epochs would meet some rows twice. Those that it holds of the earlier epoch and meets
    among its first rows of the later one are swapped there with the next rows that it does not hold.
    """

    seed: int
    """Seed of the order; two seeds give unrelated orders."""
    num_rows: int
    """Rows in an epoch, at least 1."""
    chunk_starts: IntArray | None
    """First row of every chunk, ascending from 0 (chunks tile the rows); None where rows stand alone."""
    window: int
    """Positions inside which rows of chunks are shuffled, about: whole global batches. Unused without chunks."""
    batch_size: int | None = None
    """Rows of a global batch, in which no row stands twice if there are so many. None: the order of runs that began
    before there was a choice: windows are aligned to position 0, and rows may stand twice."""
    _epoch_cache: dict[int, Swaps] = field(default_factory=dict, repr=False)
    """Last epochs' (first row, end position) of each chunk, in reading order."""

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: If there are no rows, the window is empty or no whole batches, or the chunks do not tile the rows.
        """
        if self.num_rows < 1:
            raise ValueError(f"num_rows is {self.num_rows}; an order needs at least one row")
        if self.window < 1:
            raise ValueError(f"window is {self.window}; use at least 1, normally the global batch size")
        if self.batch_size is not None and (self.batch_size < 1 or self.window % self.batch_size):
            raise ValueError(f"window {self.window} is no multiple of batch_size {self.batch_size}")
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
        rows = self._drawn(positions)
        if self.batch_size is None or self.batch_size > self.num_rows:
            return rows
        epochs, offsets = np.divmod(positions, self.num_rows)
        is_chained = self.num_rows < 3 * self.batch_size
        reach = self.num_rows if is_chained else 2 * self.batch_size
        for epoch in map(int, np.unique(epochs[offsets < reach])):
            at, swapped = self._chained_swaps(epoch) if is_chained else self._swaps(epoch)
            if len(at):
                found = np.minimum(np.searchsorted(at, offsets), len(at) - 1)
                rows = np.where((epochs == epoch) & (at[found] == offsets), swapped[found], rows)
        return rows

    def runs(self, first_step: int, last_step: int) -> list[tuple[int, int]]:
        """Cut steps into runs whose rows are best read at once: those of whole windows, no longer than one.

        A batch that straddles two epochs belongs to the earlier one's run.
        """
        size = self.batch_size
        assert size is not None
        epochs = range(first_step * size // self.num_rows, (last_step * size - 1) // self.num_rows + 1)
        edges = np.concatenate([self._window_edges(epoch) for epoch in epochs] or [np.zeros(0, dtype=np.int64)])
        cuts = np.unique(np.clip(-(-edges // size), first_step, last_step)).tolist()
        runs: list[tuple[int, int]] = []
        for first, last in itertools.pairwise(cuts):
            if runs and (last - runs[-1][0]) * size <= self.window:
                first = runs.pop()[0]
            runs.append((first, last))
        return runs

    def _drawn(self, positions: IntArray) -> IntArray:
        """Rows as the permutations give them, before anything is swapped."""
        epochs, offsets = np.divmod(positions, self.num_rows)
        if self.chunk_starts is None:
            return keyed_permutation(offsets, self.num_rows, hash64(self.seed, _ROWS, epochs))
        if self.batch_size is None:
            offsets = self._shuffle_in_aligned_window(positions, epochs, offsets)
        rows = np.empty_like(positions)
        for epoch in map(int, np.unique(epochs)):
            here = epochs == epoch
            inside = offsets[here] if self.batch_size is None else self._shuffle_in_window(epoch, positions[here])
            rows[here] = self._read_chunks(epoch, inside)
        return rows

    def _swaps(self, epoch: int) -> Swaps:
        """Offsets in an epoch, ascending, whose rows are swapped, and the rows that come to stand there."""
        assert self.batch_size is not None
        start = epoch * self.num_rows
        held = start % self.batch_size
        tail = self._drawn(np.arange(start - held, start))
        return _swap_repeats(self._drawn(np.arange(start, start + 2 * self.batch_size)), tail, self.batch_size)

    def _chained_swaps(self, epoch: int) -> Swaps:
        """The same where epochs are so short that swaps reach the next straddling batch: each depends on the last.

        The chain begins anew with every epoch whose start is the start of a batch.
        """
        size, n = self.batch_size, self.num_rows
        assert size is not None
        known = _known_swaps(
            self.seed, n, size, self.window, None if self.chunk_starts is None else bytes(self.chunk_starts)
        )
        if (found := known.get(epoch)) is not None:
            return found
        first = epoch
        while first * n % size and first - 1 not in known:
            first -= 1
        before = self._drawn(np.arange((first - 1) * n, first * n)) if first * n % size else np.zeros(0, dtype=np.int64)
        if len(before):
            at, swapped = known[first - 1]
            before[at] = swapped
        for begin in range(first, epoch + 1, _EPOCHS_AT_ONCE):
            end = min(begin + _EPOCHS_AT_ONCE, epoch + 1)
            for number, rows in enumerate(self._drawn(np.arange(begin * n, end * n)).reshape(-1, n), begin):
                held = number * n % size
                found = _swap_repeats(rows, before[len(before) - held :], size)
                known[number] = found
                rows[found[0]] = found[1]
                before = rows
        assert found is not None
        for old in list(known)[:-_KEPT_EPOCHS]:
            known.pop(old, None)  # another thread may have
        return found

    def _window_edges(self, epoch: int) -> IntArray:
        """Positions at which the windows of an epoch begin, and its end: about equally far apart, at whole batches."""
        assert self.batch_size is not None
        start, num_windows = epoch * self.num_rows, max(1, round(self.num_rows / self.window))
        inner = start + self.num_rows * np.arange(1, num_windows) // num_windows
        inner = (inner + self.batch_size // 2) // self.batch_size * self.batch_size
        return np.unique(np.r_[start, inner, start + self.num_rows])

    def _shuffle_in_window(self, epoch: int, positions: IntArray) -> IntArray:
        """Permute positions of one epoch among those that share a window; returns offsets in the epoch."""
        edges = self._window_edges(epoch)
        windows = np.searchsorted(edges, positions, side="right") - 1
        first, end = edges[windows], edges[windows + 1]
        key = hash64(self.seed, _WINDOW, epoch, windows)
        return first + keyed_permutation(positions - first, end - first, key) - epoch * self.num_rows

    def _shuffle_in_aligned_window(self, positions: IntArray, epochs: IntArray, offsets: IntArray) -> IntArray:
        """Permute offsets among those that share both an epoch and a window of positions of the run."""
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
        found = self._epoch_cache.get(epoch)  # threads share it: what one has put there another may have taken out
        if found is None:
            num_chunks = len(self.chunk_starts)
            key = hash64(self.seed, _CHUNKS, epoch)
            reading = keyed_permutation(np.arange(num_chunks, dtype=np.int64), num_chunks, key)
            lengths = np.diff(self.chunk_starts, append=self.num_rows)
            # A batch may straddle two epochs: keep both, and no more.
            for old in list(self._epoch_cache)[:-1]:
                self._epoch_cache.pop(old, None)
            found = self._epoch_cache[epoch] = (self.chunk_starts[reading], np.cumsum(lengths[reading]))
        return found


def make_order(manifest: Manifest, *, seed: int, global_batch_size: int) -> Order:
    """The order in which a run reads the train rows of its manifest, as that says."""
    num_rows, chunk_starts = len(manifest.train_rows()), manifest.chunk_starts()
    if manifest.is_first_order:
        return Order(seed, num_rows, chunk_starts, global_batch_size)
    window = max(1, (manifest.window_rows or 1) // global_batch_size) * global_batch_size
    return Order(seed, num_rows, chunk_starts, window, global_batch_size)


@lru_cache(maxsize=4)
def _known_swaps(seed: int, num_rows: int, batch_size: int, window: int, chunks: bytes | None) -> dict[int, Swaps]:
    """Swaps of epochs that this process has computed for one order: every data task has a copy of it."""
    return {}


def _swap_repeats(rows: IntArray, tail: IntArray, batch_size: int) -> Swaps:
    """Swaps in the rows of an epoch whose first share a batch with the last of the epoch before, the tail.

    Args:
        rows: (n,) rows of the epoch; of a longer one, the first 2 * batch_size.
        tail: (t,) rows that the batch holds already, t < batch_size.
        batch_size: Rows of a batch.

    Returns:
        int64 offsets (2 c,), ascending, and the rows that come to stand there, for c repeated rows.
    """
    head = batch_size - len(tail) if len(tail) else 0
    is_held = np.isin(rows, tail)
    repeated = np.flatnonzero(is_held[:head])
    free = head + np.flatnonzero(~is_held[head:])[: len(repeated)]
    return np.r_[repeated, free], np.r_[rows[free], rows[repeated]]
