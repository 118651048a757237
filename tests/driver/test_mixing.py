"""Runs over rows of Parquet files: windows of several batches, stopped in their midst, on any number of workers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moco_ray.config import Config
from moco_ray.core.hashing import rows_digest
from moco_ray.data.blocks import Source
from moco_ray.data.manifest import Manifest, make_manifest
from moco_ray.data.order import Order, make_order
from moco_ray.driver.images.listing import warn_of_mixing
from moco_ray.driver.run import pretrain
from moco_ray.storage.storage import Storage, StorageOptions
from tests.gloo import pretrain_on_ranks, quiet
from tests.runs import digests, losses, metrics, tiny_config

STEPS, SIZE = 12, 48  # three epochs of 191 rows, of two windows each


def _manifest(folder: Path) -> tuple[Storage, Manifest]:
    storage = Storage.open(str(folder), StorageOptions({}))
    return storage, Manifest.read(storage, storage.join("manifest.parquet"))


@pytest.fixture(scope="module")
def rows(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images as rows of three Parquet files in row groups of eight, sorted by class."""
    folder = tmp_path_factory.mktemp("rows")
    paths = sorted(images.glob("*/*.png"))
    for shard, part in enumerate(np.array_split(np.array(paths), 3)):
        columns = {"image": [path.read_bytes() for path in part], "label": [path.parent.name for path in part]}
        pq.write_table(pa.table(columns), folder / f"{shard}.parquet", row_group_size=8)
    return folder


def _config(rows: Path, storage: Path, **run: object) -> Config:
    config = tiny_config(rows, storage, **{"max_steps": STEPS, **run})
    mean_bytes = sum(path.stat().st_size for path in rows.iterdir()) / 211
    data = replace(config.data, window_mb=2.3 * SIZE * mean_bytes / 1e6)
    return replace(config, data=data, optim=replace(config.optim, epochs=6, global_batch_size=SIZE))


@pytest.fixture(scope="module")
def alone(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that all others must equal: one worker in this process, never stopped."""
    return Path(pretrain(_config(rows, tmp_path_factory.mktemp("alone")), say=quiet).folder)


def test_a_run_reads_rows_in_the_order_of_its_manifest(alone: Path) -> None:
    _, manifest = _manifest(alone)
    order = make_order(manifest, seed=0, global_batch_size=SIZE)
    assert order.window == 2 * SIZE and order.runs(0, STEPS)[:3] == [(0, 2), (2, 4), (4, 6)]
    expected = manifest.train_rows()[order.rows(np.arange(STEPS * SIZE))].reshape(STEPS, SIZE)
    assert digests(alone) == [rows_digest(batch) for batch in expected]
    assert all(len(set(batch)) == SIZE for batch in expected.tolist())


@pytest.mark.parametrize("stop", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_a_run_that_stops_inside_a_window_goes_on_as_if_it_had_not(
    stop: int, rows: Path, alone: Path, tmp_path: Path
) -> None:
    config = _config(rows, tmp_path)
    pretrain(replace(config, run=replace(config.run, max_steps=stop)), say=quiet)
    pretrain(config, say=quiet)
    assert digests(tmp_path / "run") == digests(alone)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), rtol=1e-12)


def test_a_run_that_began_in_the_first_order_ends_in_it(rows: Path, tmp_path: Path) -> None:
    """Its folder as the version before windows left it: no word of an order, no data.window_mb."""
    config = _config(rows, tmp_path)
    folder = Path(pretrain(replace(config, run=replace(config.run, max_steps=1)), say=quiet).folder)
    storage, manifest = _manifest(folder)
    for path in [*folder.glob("metrics*"), *folder.glob("checkpoint_*")]:
        for file in sorted(path.rglob("*"), reverse=True) if path.is_dir() else []:
            file.unlink()
        path.rmdir() if path.is_dir() else path.unlink()
    replace(manifest, order_version=1, window_rows=None).write(storage, storage.join("manifest.parquet"))
    values = json.loads((folder / "config.json").read_text())
    del values["data"]["window_mb"]
    (folder / "config.json").write_text(json.dumps(values))
    config = replace(config, data=replace(config.data, window_mb=300.0))
    for stop in (5, STEPS):
        pretrain(replace(config, run=replace(config.run, max_steps=stop)), say=quiet)
    train = manifest.train_rows()
    expected = train[Order(0, len(train), manifest.chunk_starts(), SIZE).rows(np.arange(STEPS * SIZE))].reshape(
        STEPS, SIZE
    )
    assert digests(folder) == [rows_digest(batch) for batch in expected]


def _sorted_rows(num_classes: int, rows_each: int, window_rows: int | None, group: int | None = 32) -> Manifest:
    """Rows sorted by class; None: as files."""
    labels = np.repeat(np.arange(num_classes), rows_each)
    about = {"labels": labels, "classes": tuple(map(str, range(num_classes)))}
    uris = [f"/{row if group is None else 'rows.parquet'}" for row in range(len(labels))]
    if group is None:
        return make_manifest(uris=uris, **about)  # type: ignore[arg-type]
    places = dict(zip(("row_groups", "rows_in_group"), divmod(np.arange(len(labels)), group), strict=True))
    return make_manifest(uris=uris, image_column="image", window_rows=window_rows, **about, **places)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        (_sorted_rows(100, 32, 10_000), None),
        (_sorted_rows(100, 200, 32_768), None),
        (_sorted_rows(100, 200, None, group=None), None),
        (_sorted_rows(10, 300, 1500), None),  # with few classes, few chunks hold them all
        (_sorted_rows(100, 200, 512), (17, 72)),
        (_sorted_rows(1000, 50, 1), (7, 120)),
        (_sorted_rows(50, 1000, 256, group=1000), (8, 46)),
    ],
)
def test_batches_that_hold_fewer_classes_than_shuffled_rows_are_told(
    manifest: Manifest, expected: tuple[int, int] | None, said: list[str]
) -> None:
    order = make_order(manifest, seed=0, global_batch_size=128)
    source = Source(manifest=manifest, train_rows=manifest.train_rows(), order=order, options=StorageOptions({}))
    warn_of_mixing(source, 128)
    if expected is None:
        assert said == []
    else:
        found, shuffled = map(int, re.findall(r"about (\d+) classes.*, of (\d+)\.", said[0])[0])
        assert found == expected[0] and shuffled == expected[1] and "data.window-mb" in said[0]


@pytest.mark.slow
def test_windows_are_the_same_on_any_number_of_workers_and_after_a_resume_in_their_midst(
    rows: Path, alone: Path, tmp_path: Path, shared_ray: None
) -> None:
    pretrain_on_ranks(_config(rows, tmp_path, max_steps=3), 2)
    pretrain(_config(rows, tmp_path, num_workers=3, max_steps=7), say=quiet)  # on Ray, which reads windows its own way
    folder = pretrain_on_ranks(_config(rows, tmp_path), 1)
    assert [metrics(folder)[step]["world_size"] for step in (2, 3, 6, 7)] == [2, 3, 3, 1]
    assert digests(folder) == digests(alone)
    np.testing.assert_allclose(losses(folder), losses(alone), rtol=1e-9)
