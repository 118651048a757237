"""Streams: any rank's part of any step, in order, from any first step, and errors that reach every rank."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from moco_ray.data import blocks
from moco_ray.data.blocks import Block, Source, StreamSpec
from moco_ray.data.segments import local_segment
from moco_ray.data.stream import Loaded, OpenSegment, Stream, StreamError
from tests.data.small import source_of, stream_spec, write_files, write_parquet

N = 37
LAST = 21  # the last task of a stream of tasks of 8 steps is a short one


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"), N)


@pytest.fixture(scope="module", params=["files", "windows of two batches", "windows of eight"])
def source(request: pytest.FixtureRequest, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    if request.param == "files":
        return source_of(files, stream_spec())
    rows = write_parquet(tmp_path_factory.mktemp("rows"), [20, 17], row_group_size=5)
    return source_of(rows, stream_spec(), window_rows=30 if request.param == "windows of two batches" else 100)


def stream(
    spec: StreamSpec, source: Source, first_step: int = 0, last_step: int = LAST, rank: int = 0, num_ranks: int = 1
) -> Stream:
    """A rank's stream; the blocks of all ranks are dealt round-robin, as Ray Data deals them."""

    def open_segment(first: int, last: int) -> Iterable[Block]:
        blocks = local_segment(spec, source, first, last)
        return (block for k, block in enumerate(blocks) if k % num_ranks == rank)

    return with_segments(spec, open_segment, first_step, last_step, rank, num_ranks)


def with_segments(
    spec: StreamSpec, open_segment: OpenSegment, first_step: int, last_step: int, rank: int = 0, num_ranks: int = 1
) -> Stream:
    return Stream(
        spec=spec,
        first_step=first_step,
        last_step=last_step,
        rank=rank,
        num_ranks=num_ranks,
        open_segment=open_segment,
    )


@pytest.fixture(scope="module")
def whole(source: Source) -> list[Loaded]:
    return list(stream(stream_spec(), source))


def same(a: Loaded, b: Loaded) -> bool:
    x, y = a.batch, b.batch
    return bool(
        x.step == y.step
        and (x.query == y.query).all()
        and (x.key == y.key).all()
        and (x.rows == y.rows).all()
        and (x.shuffle == y.shuffle).all()
    )


def stream_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("stream", "daemon-pool"))]


def wait_until_no_thread_is_left() -> None:
    deadline = time.monotonic() + 20
    while stream_threads():
        assert time.monotonic() < deadline, stream_threads()
        time.sleep(0.05)


def test_steps_come_in_order_and_every_row_once_an_epoch(whole: list[Loaded]) -> None:
    assert [loaded.batch.step for loaded in whole] == list(range(LAST))
    rows = np.concatenate([loaded.batch.rows for loaded in whole])
    for epoch in range(len(rows) // N):
        assert sorted(rows[epoch * N : (epoch + 1) * N]) == list(range(N))


@pytest.mark.parametrize("first_step", [1, 7, 8, 13, 20])
def test_a_stream_from_any_step_continues_the_stream_from_the_first(
    source: Source, whole: list[Loaded], first_step: int
) -> None:
    resumed = list(stream(stream_spec(), source, first_step))
    assert len(resumed) == LAST - first_step
    assert all(same(a, b) for a, b in zip(resumed, whole[first_step:], strict=True))


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("first_step", [0, 5])
def test_ranks_share_every_batch_whatever_their_number(
    source: Source, whole: list[Loaded], num_ranks: int, first_step: int
) -> None:
    spec = stream_spec()
    ranks = [stream(spec, source, first_step, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    held = 0
    for loaded, *parts in zip(whole[first_step:], *ranks, strict=True):
        groups = parts[0].batch.groups
        assert all(part.batch.groups == groups for part in parts)
        assert sorted(group for rank in groups for group in rank) == list(range(spec.num_groups))
        for part, mine in zip(parts, groups, strict=True):
            places = np.concatenate([np.arange(3 * group, 3 * group + 3) for group in mine])
            assert (part.batch.query == loaded.batch.query[places]).all()
            assert (part.batch.key == loaded.batch.key[places]).all()
            assert (part.batch.rows == loaded.batch.rows[places]).all()
            held += len(places)
    assert held == 12 * (LAST - first_step)


def test_segments_follow_one_another_without_a_seam(
    source: Source, whole: list[Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = stream_spec()
    opened: list[tuple[int, int]] = []

    def open_segment(first: int, last: int) -> Iterator[Block]:
        opened.append((first, last))
        return local_segment(spec, source, first, last)

    monkeypatch.setattr("moco_ray.data.stream._SEGMENT_TASKS", 1)
    parts = list(with_segments(spec, open_segment, 2, LAST))
    assert opened == [(2, 10), (10, 18), (18, LAST)]
    assert all(same(a, b) for a, b in zip(parts, whole[2:], strict=True))


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_a_stream_of_tasks_that_make_parts_of_a_batch_is_the_same(
    source: Source, num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = stream_spec(shuffle_bn=False)
    monkeypatch.setattr(blocks, "_TASK_BYTES", 1)
    ranks = [list(stream(spec, source, 3, rank=rank, num_ranks=num_ranks)) for rank in range(num_ranks)]
    monkeypatch.setattr(blocks, "_MOST_TASK_BYTES", 2 * spec.step_bytes // spec.num_groups)
    assert spec.groups_per_task == 2
    for rank, expected in enumerate(ranks):
        found = list(stream(spec, source, 3, rank=rank, num_ranks=num_ranks))
        assert len(found) == LAST - 3 and all(same(a, b) for a, b in zip(found, expected, strict=True))


def test_no_steps_are_an_empty_stream(source: Source) -> None:
    assert list(stream(stream_spec(), source, LAST, LAST)) == []


def test_a_block_of_another_group_or_step_is_never_taken_for_the_right_one(source: Source) -> None:
    spec = stream_spec()

    def swapped(first: int, last: int) -> Iterator[Block]:
        one, two, *rest = local_segment(spec, source, first, last)
        yield from (two, one, *rest)

    def late(first: int, last: int) -> Iterator[Block]:
        return local_segment(spec, source, first + 1, last)

    for open_segment in (swapped, late):
        with pytest.raises(RuntimeError, match="rank 0 expected block"):
            next(iter(with_segments(spec, open_segment, 0, 2)))


def test_a_stream_that_ends_early_is_an_error_and_no_wait(source: Source) -> None:
    spec = stream_spec()

    def short(first: int, last: int) -> Iterator[Block]:
        return local_segment(spec, source, first, last - 5)

    with pytest.raises(RuntimeError, match="ended before step 16"):
        list(with_segments(spec, short, 0, LAST))
    wait_until_no_thread_is_left()


def test_a_segment_with_blocks_too_many_is_an_error(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = stream_spec()

    def long(first: int, last: int) -> Iterator[Block]:
        return local_segment(spec, source, first, last + 8)

    monkeypatch.setattr("moco_ray.data.stream._SEGMENT_TASKS", 1)
    with pytest.raises(RuntimeError, match="beyond step 8"):
        list(with_segments(spec, long, 0, LAST))


def test_images_that_cannot_be_read_at_all_are_an_error_on_every_rank_at_one_step(tmp_path: Path) -> None:
    spec = stream_spec(12, 12)
    gone = source_of(write_files(tmp_path, N), spec)
    for path in tmp_path.glob("*.png"):
        path.unlink()
    for rank in range(3):
        with pytest.raises(StreamError, match=r"png: there is no such file.* none of the 3\d others"):
            list(stream(spec, gone, rank=rank, num_ranks=3))
    wait_until_no_thread_is_left()


def test_ranks_show_the_same_images_where_groups_and_batches_have_no_good_one(tmp_path: Path) -> None:
    spec = stream_spec(12, 6)
    source = source_of(write_files(tmp_path, N, {i: b"no image" for i in range(N) if i % 3}), spec)
    alone = list(stream(spec, source))
    for num_ranks in (2, 4):
        ranks = [stream(spec, source, 5, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
        for loaded, *parts in zip(alone[5:], *ranks, strict=True):
            for part, mine in zip(parts, parts[0].batch.groups, strict=True):
                places = np.concatenate([np.arange(2 * group, 2 * group + 2) for group in mine])
                assert (part.batch.query == loaded.batch.query[places]).all()
                assert (part.batch.key == loaded.batch.key[places]).all()


@pytest.mark.parametrize("window_rows", [12, 30, 1000])
def test_rows_of_a_file_that_is_gone_are_bad_on_every_rank_whatever_the_window(
    tmp_path: Path, window_rows: int
) -> None:
    spec = stream_spec()
    source = source_of(write_parquet(tmp_path, [60, 60, 60], row_group_size=30), spec, window_rows=window_rows)
    rows = source.order.rows(np.arange(LAST * 12))
    (tmp_path / "1.parquet").unlink()
    found = [
        bad.row for rank in range(3) for loaded in stream(spec, source, rank=rank, num_ranks=3) for bad in loaded.bad
    ]
    assert sorted(found) == sorted(row for row in rows.tolist() if 60 <= row < 120)
    wait_until_no_thread_is_left()


def test_bad_rows_are_told_once_by_the_rank_that_holds_them(tmp_path: Path) -> None:
    spec = stream_spec()
    source = source_of(write_files(tmp_path, N, {5: b"no image", 6: b""}), spec)
    told = [
        (bad.row, bad.reason)
        for rank in range(3)
        for loaded in stream(spec, source, rank=rank, num_ranks=3)
        for bad in loaded.bad
    ]
    rows = source.order.rows(np.arange(LAST * 12))
    expected = [(5, "not an image of a known format: text that begins 'no image'")] * int((rows == 5).sum()) + [
        (6, "empty file")
    ] * int((rows == 6).sum())
    assert sorted(told) == expected


def test_a_consumer_that_stops_early_leaves_no_thread_behind(source: Source) -> None:
    iterator = iter(stream(stream_spec(), source, 0, 1000))
    next(iterator)
    assert stream_threads()
    iterator.close()  # type: ignore[attr-defined]
    wait_until_no_thread_is_left()


def test_waiting_for_data_is_measured(source: Source) -> None:
    spec = stream_spec()

    def slow(first: int, last: int) -> Iterator[Block]:
        time.sleep(0.3)
        yield from local_segment(spec, source, first, last)

    waits = with_segments(spec, slow, 0, 2)
    assert len(list(waits)) == 2
    assert waits.wait_s >= 0.3
