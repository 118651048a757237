"""Order: every epoch is a bijection, whatever the sizes, and epochs differ."""

from __future__ import annotations

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from moco_ray.data.manifest import Manifest, make_manifest
from moco_ray.data.order import Order, make_order
from moco_ray.data.permutation import keyed_permutation


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


def test_threads_that_read_different_epochs_of_one_order_do_not_disturb_each_other() -> None:
    order = Order(seed=3, num_rows=37, chunk_starts=np.arange(0, 37, 5), window=24, batch_size=12)
    epochs = [np.arange(epoch * 37, (epoch + 1) * 37) for epoch in range(40)]
    expected = [order.rows(positions).tolist() for positions in epochs]

    def read(first: int) -> bool:
        return all(order.rows(epochs[(first + i) % 40]).tolist() == expected[(first + i) % 40] for i in range(400))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(read, range(0, 40, 10)))
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("starts", [[], [1], [0, 5, 5], [0, 10]])
def test_chunks_that_do_not_tile_the_rows_are_refused(starts: list[int]) -> None:
    with pytest.raises(ValueError, match="chunk_starts"):
        Order(0, 10, np.array(starts, dtype=np.int64), 4)


@pytest.mark.parametrize("chunk", [None, 1, 5, 32])
@pytest.mark.parametrize(
    ("num_rows", "size"),
    [(1, 1), (7, 7), (8, 7), (13, 7), (14, 7), (15, 7), (20, 7), (21, 7), (97, 7), (100, 64), (100, 99), (101, 50)]
    + [(128, 127), (191, 64), (193, 64), (251, 100), (1000, 128), (640, 32)],
)
def test_no_row_stands_twice_in_a_batch_and_each_once_an_epoch(num_rows: int, size: int, chunk: int | None) -> None:
    starts, epochs = None if chunk is None else _starts(num_rows, chunk), 41
    for batches in (1, 3):
        order = Order(num_rows, num_rows, starts, batches * size, size)
        rows = order.rows(np.arange(epochs * num_rows))
        assert (np.sort(rows.reshape(epochs, num_rows), axis=1) == np.arange(num_rows)).all()
        batch = np.sort(rows[: len(rows) // size * size].reshape(-1, size), axis=1)
        assert (np.diff(batch, axis=1) > 0).all()
        # From the middle, backwards and by single positions, as after a resume or on another worker.
        asked = np.random.default_rng(size).permutation(len(rows))[:60]
        fresh = Order(num_rows, num_rows, starts, batches * size, size)
        assert (fresh.rows(asked) == rows[asked]).all()
        assert [int(order.rows(np.array([p]))[0]) for p in asked[:5]] == rows[asked[:5]].tolist()


@pytest.mark.parametrize(("num_rows", "size"), [(100, 64), (1000, 128), (300, 100), (5000, 256)])
def test_an_order_without_a_batch_size_repeats_rows_and_swaps_change_little_of_it(num_rows: int, size: int) -> None:
    positions = np.arange(200 * size)
    old = Order(0, num_rows, None, size).rows(positions).reshape(-1, size)
    new = Order(0, num_rows, None, size, size).rows(positions).reshape(-1, size)
    straddling = np.arange(200) * size // num_rows != (np.arange(1, 201) * size - 1) // num_rows
    if num_rows % size == 0:
        assert (old == new).all()
        return
    repeats = np.array([len(set(batch)) < size for batch in old.tolist()])
    assert repeats.any() and not (repeats & ~straddling).any()
    if num_rows >= 3 * size:
        assert not (old != new).any(axis=1)[~(straddling | np.r_[False, straddling[:-1]])].any()


def test_fewer_rows_than_a_batch_are_repeated_in_it() -> None:
    rows = Order(0, 10, None, 64, 64).rows(np.arange(640)).reshape(64, 10)
    assert (np.sort(rows, axis=1) == np.arange(10)).all()


@pytest.mark.parametrize("num_rows", [90, 100, 128, 1000, 3217])
@pytest.mark.parametrize(("size", "batches"), [(32, 1), (32, 4), (25, 7), (64, 100)])
def test_runs_of_steps_tile_the_run_and_share_windows(num_rows: int, size: int, batches: int) -> None:
    order = Order(0, num_rows, _starts(num_rows, 32), size * batches, size)
    first, last = 3, 10 * num_rows // size
    runs = order.runs(first, last)
    assert [run[0] for run in runs] == [first, *(run[1] for run in runs[:-1])] and runs[-1][1] == last
    assert all(0 < (b - a) * size <= 1.5 * size * batches + 2 * size for a, b in runs)
    # What is in a run is in no other of its epoch, but for the batch that straddles two epochs.
    rows = order.rows(np.arange(last * size))
    for epoch in range(1, 9):
        chunks = [
            set(rows[max(a * size, epoch * num_rows) : min(b * size, (epoch + 1) * num_rows)] // 32) for a, b in runs
        ]
        whole = [chunk for chunk in chunks if chunk]
        met = sum(map(len, whole))
        assert met <= -(-num_rows // 32) + 2 * len(whole) + size


def test_the_order_of_new_runs_is_pinned() -> None:
    order = Order(0, 10, None, 4, 4)
    assert order.rows(np.arange(20)).tolist() == [8, 9, 5, 7, 6, 3, 1, 4, 0, 2, 9, 5, 7, 0, 6, 2, 1, 4, 8, 3]
    order = Order(0, 23, _starts(23, 3), 8, 4)
    assert order.rows(np.arange(46)).tolist() == [
        16,
        17,
        22,
        0,
        21,
        1,
        2,
        15,
        13,
        19,
        10,
        20,
        14,
        12,
        18,
        9,
        7,
        8,
        3,
        5,
        11,
        4,
        6,
        17,
        21,
        16,
        9,
        0,
        2,
        1,
        15,
        22,
        20,
        11,
        18,
        8,
        19,
        7,
        6,
        10,
        14,
        4,
        3,
        12,
        13,
        5,
    ]
    order = Order(0, 7, _starts(7, 3), 8, 4)  # so short that each epoch depends on the one before
    assert order.rows(np.arange(7 * 101, 7 * 102)).tolist() == [2, 5, 3, 1, 4, 0, 6]


def _sorted_by_class(num_classes: int, rows_each: int, group: int | None) -> Manifest:
    """Rows sorted by class: single files, or rows of one Parquet file of small images in row groups of that size."""
    labels = np.repeat(np.arange(num_classes), rows_each)
    classes = tuple(f"{i:04d}" for i in range(num_classes))
    rows = np.arange(len(labels))
    if group is None:
        return make_manifest(uris=[f"/{row}" for row in rows], labels=labels, classes=classes)
    return make_manifest(
        uris=["/rows.parquet"] * len(rows),
        labels=labels,
        classes=classes,
        row_groups=rows // group,
        rows_in_group=rows % group,
        image_column="image",
        window_rows=32_768,
    )


def _classes_of_batches(manifest: Manifest, size: int) -> float:
    """Mean number of classes in a batch, over at most 100 batches of three epochs."""
    order = make_order(manifest, seed=1, global_batch_size=size)
    steps = np.linspace(0, 3 * len(manifest) // size - 1, 100).astype(np.int64)
    positions = steps[:, None] * size + np.arange(size)
    labels = manifest.labels[manifest.train_rows()[order.rows(positions)]]
    return float(np.mean([len(set(batch)) for batch in labels.tolist()]))


@pytest.mark.parametrize("group", [32, 1000, 7, 5000])
@pytest.mark.parametrize(("num_classes", "rows_each"), [(100, 32), (100, 500), (1000, 50), (37, 2001), (10, 13)])
@pytest.mark.parametrize("size", [128, 96])
def test_sorted_rows_of_parquet_files_mix_as_files_do(num_classes: int, rows_each: int, group: int, size: int) -> None:
    files = _classes_of_batches(_sorted_by_class(num_classes, rows_each, None), size)
    rows = _classes_of_batches(_sorted_by_class(num_classes, rows_each, group), size)
    assert rows >= 0.9 * files


def test_runs_that_began_in_the_first_order_stay_in_it() -> None:
    new = _sorted_by_class(100, 32, 32)
    old = replace(new, order_version=1, window_rows=None)
    order = make_order(old, seed=1, global_batch_size=128)
    expected = Order(1, 3200, _starts(3200, 32), 128)
    assert (order.rows(np.arange(9600)) == expected.rows(np.arange(9600))).all()
    assert _classes_of_batches(old, 128) < 8 < 60 < _classes_of_batches(new, 128)
