"""Every source gives every row exactly once an epoch, through the whole job."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moco_ray.core.hashing import rows_digest
from moco_ray.data.manifest import Manifest
from moco_ray.data.order import make_order
from moco_ray.driver.run import pretrain
from moco_ray.storage.storage import Storage, StorageOptions
from tests.runs import digests, tiny_config

EPOCHS = 2


def _quiet(line: str) -> None:
    pass


def _as_folder(images: Path, target: Path) -> Path:
    return images


def _as_csv(images: Path, target: Path) -> Path:
    paths = sorted(images.glob("*/*.png"))
    with (target / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["uri", "label"])
        writer.writerows([path, path.parent.name] for path in paths)
    return target / "list.csv"


def _as_parquet_of_uris(images: Path, target: Path) -> Path:
    paths = sorted(images.glob("*/*.png"))
    table = pa.table({"uri": [str(path) for path in paths], "label": [path.parent.name for path in paths]})
    pq.write_table(table, target / "list.parquet")
    return target / "list.parquet"


def _as_parquet_of_bytes(images: Path, target: Path) -> Path:
    paths = sorted(images.glob("*/*.png"))
    folder = target / "shards"
    folder.mkdir()
    for shard, part in enumerate(np.array_split(np.array(paths), 3)):
        columns = {"image": [path.read_bytes() for path in part], "label": [path.parent.name for path in part]}
        pq.write_table(pa.table(columns), folder / f"{shard}.parquet", row_group_size=13)
    return folder


@pytest.mark.parametrize("source", [_as_folder, _as_csv, _as_parquet_of_uris, _as_parquet_of_bytes])
def test_every_row_exactly_once_an_epoch(source: object, images: Path, tmp_path: Path) -> None:
    uri = source(images, tmp_path)  # type: ignore[operator]
    config = tiny_config(uri, tmp_path / "runs")
    config = replace(config, optim=replace(config.optim, epochs=EPOCHS))
    folder = Path(pretrain(config, say=_quiet).folder)
    storage = Storage.open(str(folder), StorageOptions({}))
    manifest = Manifest.read(storage, storage.join("manifest.parquet"))
    rows = manifest.train_rows()
    assert (len(manifest), len(rows), len(manifest.classes)) == (211, 191, 10)
    size = config.optim.global_batch_size
    last = len(digests(folder)) * size
    order = make_order(manifest, seed=config.run.seed, global_batch_size=size)
    overhang = rows[order.rows(np.arange(EPOCHS * len(rows), last))]
    expected = EPOCHS * rows_digest(rows) + rows_digest(overhang)
    assert sum(digests(folder)) % 2**64 == expected % 2**64
