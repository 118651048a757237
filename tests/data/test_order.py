"""Order: every epoch is a bijection, whatever the sizes, and epochs differ."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from moco_ray.data.order import Order, keyed_permutation


def _starts(num_rows: int, chunk: int) -> np.ndarray:
    return np.arange(0, num_rows, chunk, dtype=np.int64)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 7, 16, 31, 97, 256, 1000, 4097])
@pytest.mark.parametrize("chunk", [None, 1, 7, 32])
@pytest.mark.parametrize("window", [1, 8, 100])
def test_every_epoch_reads_every_row_once(num_rows: int, chunk: int | None, window: int) -> None:
    order = Order(3, num_rows, None if chunk is None else _starts(num_rows, chunk), window)
    rows = order.rows(np.arange(3 * num_rows)).reshape(3, num_rows)
    assert (np.sort(rows, axis=1) == np.arange(num_rows)).all()


@pytest.mark.parametrize("chunk", [None, 5])
def test_any_split_of_positions_gives_the_same_rows(chunk: int | None) -> None:
    starts = None if chunk is None else _starts(53, chunk)
    whole = Order(1, 53, starts, 16).rows(np.arange(500))
    order = Order(1, 53, starts, 16)
    shuffled = np.random.default_rng(0).permutation(500)
    assert (order.rows(shuffled) == whole[shuffled]).all()
    assert (order.rows(np.arange(500).reshape(4, 125)) == whole.reshape(4, 125)).all()
    assert [int(order.rows(np.array([p]))[0]) for p in (499, 0, 60)] == whole[[499, 0, 60]].tolist()


def test_tiny_data_lets_one_batch_hold_several_epochs() -> None:
    rows = Order(0, 3, _starts(3, 2), 64).rows(np.arange(64))
    assert all(sorted(rows[i : i + 3].tolist()) == [0, 1, 2] for i in range(0, 63, 3))


def test_seeds_and_epochs_give_different_orders() -> None:
    orders = [Order(seed, 1000, None, 1).rows(np.arange(2000)).reshape(2, 1000) for seed in (0, 1)]
    epochs = [orders[0][0], orders[0][1], orders[1][0]]
    for i in range(3):
        for j in range(i):
            assert (epochs[i] == epochs[j]).mean() < 0.01


def test_a_window_reads_whole_chunks_and_mixes_their_rows() -> None:
    order = Order(5, 3200, _starts(3200, 32), 320)
    rows = order.rows(np.arange(320))
    chunks, counts = np.unique(rows // 32, return_counts=True)
    assert len(chunks) == 10 and (counts == 32).all()
    assert (np.diff(rows) == 1).mean() < 0.05
    assert np.ptp(chunks) > 50


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_small_permutations_are_all_about_equally_likely(size: int) -> None:
    trials = 24_000
    keys = np.random.default_rng(0).integers(0, 2**63, trials, dtype=np.uint64)
    values = np.broadcast_to(np.arange(size), (trials, size)).ravel()
    drawn = keyed_permutation(values, size, np.repeat(keys, size)).reshape(trials, size)
    codes = drawn @ (size ** np.arange(size))
    _, counts = np.unique(codes, return_counts=True)
    factorial = int(np.prod(np.arange(1, size + 1)))
    assert len(counts) == factorial
    expected = trials / factorial
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < factorial - 1 + 5 * np.sqrt(2 * factorial)


def test_where_a_row_falls_is_uniform_over_epochs() -> None:
    epochs = 4000
    rows = Order(9, 100, None, 1).rows(np.arange(epochs * 100)).reshape(epochs, 100)
    counts = np.bincount(np.argmax(rows == 42, axis=1), minlength=100)
    assert float(((counts - 40) ** 2 / 40).sum()) < 99 + 5 * np.sqrt(2 * 99)


def test_a_hundred_million_rows_need_no_array() -> None:
    rows = Order(0, 100_000_003, None, 4096).rows(np.arange(4096) + 5 * 100_000_003)
    assert len(np.unique(rows)) == 4096 and rows.min() >= 0 and rows.max() < 100_000_003


def test_order_is_pinned() -> None:
    """Checkpoints of older versions must resume in the same order."""
    assert Order(0, 10, None, 4).rows(np.arange(10)).tolist() == [8, 9, 5, 7, 6, 3, 1, 4, 0, 2]
    assert Order(0, 10, _starts(10, 3), 4).rows(np.arange(10)).tolist() == [9, 8, 7, 6, 2, 0, 3, 1, 5, 4]


def test_pickle_leaves_the_cache_out() -> None:
    order = Order(0, 100_000, _starts(100_000, 1000), 64)
    empty = len(pickle.dumps(order))
    rows = order.rows(np.arange(64))
    assert len(pickle.dumps(order)) == empty
    assert (pickle.loads(pickle.dumps(order)).rows(np.arange(64)) == rows).all()


@pytest.mark.parametrize("starts", [[], [1], [0, 5, 5], [0, 10]])
def test_chunks_that_do_not_tile_the_rows_are_refused(starts: list[int]) -> None:
    with pytest.raises(ValueError, match="chunk_starts"):
        Order(0, 10, np.array(starts, dtype=np.int64), 4)
