"""Windows: each row group is read once for all the batches that mix its rows, and only what is needed is kept."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moco_ray.data import windows
from moco_ray.data.blocks import Source, make_blocks
from moco_ray.data.manifest import Manifest
from moco_ray.data.reading import read_rows
from moco_ray.data.windows import Load, is_read_in_windows, read_windows
from moco_ray.storage.storage import StorageOptions
from tests.data.small import NO_OPTIONS, source_of, stream_spec, write_files, write_parquet

N = 301
GROUP = 16


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parquet(tmp_path_factory.mktemp("parquet"), [150, 1, 150], GROUP)


def expected(source: Source, load: Load) -> list[bytes]:
    positions = np.arange(load.first_step * 12, (load.first_step + load.num_steps) * 12)
    return read_rows(source.manifest, source.train_rows[source.order.rows(positions)], NO_OPTIONS)


@pytest.mark.parametrize("window_rows", [1, 48, 100, 10_000])
@pytest.mark.parametrize("holdout", [(), (0, 9, 150, 299)])
@pytest.mark.parametrize(("first_step", "last_step"), [(0, 26), (7, 60), (25, 27), (30, 31)])
def test_tasks_get_the_images_of_their_rows_in_order(
    parquet: Path, window_rows: int, holdout: tuple[int, ...], first_step: int, last_step: int
) -> None:
    spec = stream_spec()
    source = source_of(parquet, spec, holdout, window_rows)
    assert is_read_in_windows(source)
    loads = list(read_windows(spec, source, source.order.runs(first_step, last_step)))
    steps = [step for load in loads for step in range(load.first_step, load.first_step + load.num_steps)]
    assert steps == list(range(first_step, last_step))
    assert all(load.num_steps <= spec.steps_per_task and not load.error for load in loads)
    for load in loads:
        assert list(load.contents or ()) == expected(source, load)


def test_each_row_group_of_a_window_is_read_once(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, read = stream_spec(), []

    def reading(manifest: Manifest, rows: np.ndarray, options: StorageOptions) -> list[bytes]:
        table = manifest.table.take(rows)
        read.append(set(zip(table["uri"].to_pylist(), table["row_group"].to_pylist(), strict=True)))
        return read_rows(manifest, rows, options)

    monkeypatch.setattr(windows, "read_rows", reading)
    source = source_of(parquet, spec, window_rows=96)
    num_groups = 2 * -(-150 // GROUP) + 1
    for first, last in source.order.runs(0, 100):
        read.clear()
        list(read_windows(spec, source, [(first, last)]))
        times = Counter(group for groups in read for group in groups)
        assert all(len(groups) == 1 for groups in read) and max(times.values()) == 1 and len(times) <= num_groups
    read.clear()
    list(
        read_windows(spec, source, source.order.runs(0, 25))
    )  # an epoch: a chunk at most falls to two windows at its edges
    assert num_groups <= len(read) <= num_groups + 2 * len(source.order.runs(0, 25))


def test_blocks_of_what_was_read_before_are_those_of_who_reads_for_themselves(parquet: Path) -> None:
    spec = stream_spec()
    source = source_of(parquet, spec, window_rows=48)
    for load in read_windows(spec, source, source.order.runs(3, 12)):
        ours = make_blocks(spec, source, load.first_step, load.num_steps, load.contents, load.groups)
        theirs = make_blocks(spec, source, load.first_step, load.num_steps)
        for a, b in zip(ours, theirs, strict=True):
            assert a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def test_threads_hold_no_more_rows_than_a_window_in_whole_row_groups(tmp_path: Path) -> None:
    def threads_of(group: int, window_rows: int) -> int:
        source = source_of(
            write_parquet(tmp_path / f"{group}-{window_rows}", [64], group), stream_spec(), (), window_rows
        )
        return windows._num_threads(source)

    assert [threads_of(8, 24), threads_of(64, 24), threads_of(8, 64), threads_of(2, 64)] == [3, 1, 4, 4]


def test_a_reader_that_is_left_early_leaves_no_thread_behind(parquet: Path) -> None:
    spec = stream_spec()
    source = source_of(parquet, spec, window_rows=48)
    loads = read_windows(spec, source, source.order.runs(0, 100))
    next(loads)
    loads.close()
    for thread in threading.enumerate():
        if thread.name.startswith("data-read"):
            thread.join(timeout=20)
            assert not thread.is_alive()


def test_files_and_rows_of_the_first_order_are_read_by_who_decodes_them(parquet: Path, tmp_path: Path) -> None:
    spec = stream_spec()
    assert not is_read_in_windows(source_of(write_files(tmp_path, 30), spec))
    source = source_of(parquet, spec)
    old = replace(source, order=replace(source.order, batch_size=None, window=12))
    assert not is_read_in_windows(old)
