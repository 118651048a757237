"""Data tasks: whole batches from positions alone, keys already shuffled, bad rows replaced in place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moco_ray.config.views import cifar_views, v2_views
from moco_ray.data import blocks as blocks_module
from moco_ray.data.blocks import Source, StreamSpec, make_blocks
from moco_ray.data.makers import TwoViews
from moco_ray.data.views import make_view
from moco_ray.data.windows import plan_loads
from tests.data.small import VIEWS, pixels, source_of, stream_spec, write_files, write_parquet

N = 37


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"), N)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parquet(tmp_path_factory.mktemp("parquet"), [20, 17], row_group_size=7)


def batches(spec: StreamSpec, source: Source, first: int, count: int) -> dict[str, np.ndarray]:
    """Query, key and rows of whole batches, put together from the blocks."""
    blocks = list(make_blocks(spec, source, first, count))
    assert [int(block["group"]) for block in blocks] == list(range(spec.num_groups))
    return {name: np.concatenate([block[name] for block in blocks], axis=1) for name in ("query", "key", "rows")}


@pytest.mark.parametrize("kind", ["files", "parquet"])
@pytest.mark.parametrize("holdout", [(), (0, 9, 36)])
def test_every_row_is_seen_once_an_epoch_though_batches_straddle_epochs(
    kind: str, holdout: tuple[int, ...], request: pytest.FixtureRequest
) -> None:
    spec = stream_spec()
    source = source_of(request.getfixturevalue(kind), spec, holdout)
    n = N - len(holdout)
    rows = batches(spec, source, 0, 10)["rows"].ravel()
    for epoch in range(3):
        assert sorted(rows[epoch * n : (epoch + 1) * n]) == sorted(set(range(N)) - set(holdout))
    assert (rows[:n] != rows[n : 2 * n]).any()


@pytest.mark.parametrize("kind", ["files", "parquet"])
@pytest.mark.parametrize("shuffle_bn", [True, False])
def test_pixels_are_the_views_of_the_rows_with_each_key_in_its_slot(
    kind: str, shuffle_bn: bool, request: pytest.FixtureRequest
) -> None:
    spec = stream_spec(shuffle_bn=shuffle_bn)
    source = source_of(request.getfixturevalue(kind), spec)
    made = batches(spec, source, 3, 2)
    for t, step in enumerate((3, 4)):
        slots = spec.shuffle(step)
        assert (slots == np.arange(12)).all() == (not shuffle_bn)
        for slot in range(12):
            for name, view, i in (("query", 0, slot), ("key", 1, slots[slot])):
                image = pixels(int(made["rows"][t, i]))
                expected = make_view(image, VIEWS, seed=spec.seed, position=step * 12 + int(i), view=view)
                assert (made[name][t, slot] == expected).all()


@pytest.mark.parametrize("num_bytes", [1, 15_000])
def test_pixels_do_not_depend_on_how_many_views_are_made_together(
    files: Path, num_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = stream_spec()
    source = source_of(files, spec)
    together = batches(spec, source, 0, 3)
    monkeypatch.setattr(blocks_module, "_TOGETHER_BYTES", num_bytes)
    apart = batches(spec, source, 0, 3)
    assert all((apart[name] == together[name]).all() for name in together)


def test_a_batch_does_not_depend_on_the_task_that_makes_it(files: Path) -> None:
    spec = stream_spec()
    source = source_of(files, spec)
    together = batches(spec, source, 2, 5)
    for t in range(5):
        alone = batches(spec, source, 2 + t, 1)
        assert all((alone[name][0] == together[name][t]).all() for name in together)


@pytest.mark.parametrize("kind", ["files", "parquet"])
def test_groups_do_not_depend_on_the_task_that_makes_them(kind: str, request: pytest.FixtureRequest) -> None:
    spec = stream_spec(shuffle_bn=False)
    source = source_of(request.getfixturevalue(kind), spec)
    together = list(make_blocks(spec, source, 2, 3))
    apart = [block for j in range(4) for block in make_blocks(spec, source, 2, 3, groups=range(j, j + 1))]
    for whole, part in zip(together, apart, strict=True):
        assert whole.keys() == part.keys() and all((whole[name] == part[name]).all() for name in whole)


@pytest.mark.parametrize("shuffle_bn", [True, False])
def test_tasks_of_large_batches_are_cut_where_keys_stay_in_their_groups(shuffle_bn: bool) -> None:
    specs = [
        StreamSpec(
            seed=0, global_batch_size=size, num_groups=8, maker=TwoViews(v2_views(), shuffle_bn), max_pixels=10**8
        )
        for size in (32, 256, 1024, 4096)
    ]
    assert [spec.groups_per_task for spec in specs] == ([8] * 4 if shuffle_bn else [8, 8, 2, 1])
    assert shuffle_bn or max(spec.task_bytes for spec in specs) <= 320e6
    for spec in specs:
        loads = list(plan_loads(spec, 3, 12))
        planned = [
            (step, group)
            for load in loads
            for step in range(load.first_step, load.first_step + load.num_steps)
            for group in load.groups
        ]
        assert sorted(planned) == [(step, group) for step in range(3, 12) for group in range(8)]
        assert all(load.num_steps == 1 or len(load.groups) == 8 for load in loads)  # so blocks come in order


def test_query_views_do_not_depend_on_the_number_of_groups(files: Path) -> None:
    made = [batches(spec, source_of(files, spec), 1, 2) for spec in (stream_spec(12, 4), stream_spec(12, 1))]
    assert all((made[0][name] == made[1][name]).all() for name in made[0])


def test_a_bad_row_keeps_its_position_and_shows_the_next_good_image_of_its_group(tmp_path: Path) -> None:
    spec = stream_spec(shuffle_bn=False)
    rows = batches(spec, source_of(write_files(tmp_path / "good", N), spec), 0, 1)["rows"][0]
    # Of group 1 the first two rows, and of group 2 the last one, whose stand-in is the first.
    stand_ins = {3: 5, 4: 5, 8: 6}
    source = source_of(write_files(tmp_path / "bad", N, {int(rows[i]): b"no image" for i in stand_ins}), spec)
    blocks = list(make_blocks(spec, source, 0, 1))
    for i in range(12):
        block, at = blocks[i // 3], i % 3
        assert block["rows"][0, at] == rows[i]
        image = pixels(int(rows[stand_ins.get(i, i)]))
        for name, view in (("query", 0), ("key", 1)):
            expected = make_view(image, VIEWS, seed=spec.seed, position=i, view=view)
            assert (block[name][0, at] == expected).all()
    told = [json.loads(str(block["bad"])) for block in blocks]
    assert [[entry[0] for entry in block] for block in told] == [[], [rows[3], rows[4]], [rows[8]], []]
    assert told[2][0][1] == source.manifest.uri(int(rows[8])) and "not an image" in told[2][0][2]


def test_bad_rows_of_every_step_of_a_task_are_told(tmp_path: Path) -> None:
    spec = stream_spec()
    source = source_of(write_files(tmp_path, 12, {5: b"no image"}), spec)
    told = [entry for block in make_blocks(spec, source, 0, 4) for entry in json.loads(str(block["bad"]))]
    assert [entry[0] for entry in told] == [5, 5, 5, 5]


def _shown(blocks: list[dict[str, np.ndarray]], spec: StreamSpec, position: int) -> int:
    """The number of the image whose query view stands at a position of step 0."""
    block, at = blocks[position // spec.group_size], position % spec.group_size
    views = {make_view(pixels(i), VIEWS, seed=spec.seed, position=position, view=0).tobytes(): i for i in range(N)}
    return views[np.ascontiguousarray(block["query"][0, at]).tobytes()]


def test_a_group_without_a_good_image_shows_the_next_group_of_its_batch_that_has_one(tmp_path: Path) -> None:
    spec = stream_spec(shuffle_bn=False)  # 4 groups of 3
    rows = batches(spec, source_of(write_files(tmp_path / "good", N), spec), 0, 1)["rows"][0]
    # Groups 2 and 3 have none, so both show group 0, whose first image is bad as well.
    broken = {int(rows[i]): b"no image" for i in (0, 6, 7, 8, 9, 10, 11)}
    source = source_of(write_files(tmp_path / "bad", N, broken), spec)
    blocks = list(make_blocks(spec, source, 0, 1))
    assert [_shown(blocks, spec, i) for i in range(12)] == [int(rows[i]) for i in (1, 1, 2, 3, 4, 5, 1, 1, 2, 1, 1, 2)]
    assert (np.concatenate([block["rows"][0] for block in blocks]) == rows).all()
    told = [len(json.loads(str(block["bad"]))) for block in blocks]
    assert told == [1, 0, 3, 3]
    again = list(make_blocks(spec, source, 0, 3))  # whatever task makes it
    assert all((a["query"][0] == b["query"][0]).all() for a, b in zip(again, blocks, strict=True))


@pytest.mark.parametrize("num_groups", [1, 4])
def test_a_batch_without_a_good_image_shows_the_groups_that_follow_it(num_groups: int, tmp_path: Path) -> None:
    spec = stream_spec(12, num_groups, shuffle_bn=False)
    good = batches(spec, source_of(write_files(tmp_path / "good", N), spec), 0, 2)["rows"]
    broken = {int(row): b"" for row in good[0]} | {int(good[1, i]): b"" for i in range(3)}
    source = source_of(write_files(tmp_path / "bad", N, broken), spec)
    blocks = list(make_blocks(spec, source, 0, 1))
    shown = [_shown(blocks, spec, i) for i in range(12)]
    if num_groups == 4:
        assert shown == [int(row) for row in good[1, 3:6]] * 4
    else:  # of its one group the first three are bad, and the next good one stands in for them
        assert shown == [int(row) for row in good[1, [3, 3, 3, *range(3, 12)]]]


def test_an_end_to_the_search_for_a_good_image_is_an_error_that_says_why(tmp_path: Path) -> None:
    spec = stream_spec(12, 12)
    source = source_of(write_files(tmp_path, 12, dict.fromkeys(range(12), b"no image")), spec)
    with pytest.raises(ValueError, match=r"is a good one .*png: not an image of a known format.*--data\.relist"):
        list(make_blocks(spec, source, 0, 1))


def test_an_image_that_vanished_is_a_bad_row_unless_all_have(tmp_path: Path) -> None:
    spec = stream_spec()
    source = source_of(write_files(tmp_path, 12), spec)
    (tmp_path / "00005.png").unlink()
    told = [entry for block in make_blocks(spec, source, 0, 1) for entry in json.loads(str(block["bad"]))]
    assert told == [[5, str(tmp_path / "00005.png"), "there is no such file or folder"]]
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match=r"\.png: there is no such file.*Is the disk mounted"):
        list(make_blocks(spec, source, 0, 1))


def test_an_empty_file_is_a_bad_row(tmp_path: Path) -> None:
    spec = stream_spec()
    source = source_of(write_files(tmp_path, 12, {5: b""}), spec)
    told = [entry for block in make_blocks(spec, source, 0, 1) for entry in json.loads(str(block["bad"]))]
    assert [(entry[0], entry[2]) for entry in told] == [(5, "empty file")]


def test_tasks_hold_several_steps_of_small_images_and_one_of_large_ones() -> None:
    def steps(size: int, px: int) -> int:
        views = cifar_views() if px == 32 else v2_views(px)
        spec = StreamSpec(
            seed=0, global_batch_size=size, num_groups=8, maker=TwoViews(views, shuffle_bn=True), max_pixels=1
        )
        return spec.steps_per_task

    assert (steps(256, 224), steps(512, 32), steps(8, 32)) == (1, 5, 8)
