"""Small data sets and streams for the tests of data tasks."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from moco_ray.config.data import DataConfig
from moco_ray.config.views import v2_views
from moco_ray.data.blocks import Source, StreamSpec
from moco_ray.data.makers import TwoViews
from moco_ray.data.manifest import Manifest
from moco_ray.data.order import make_order
from moco_ray.data.sources import build_manifest
from moco_ray.storage.storage import StorageOptions

NO_OPTIONS = StorageOptions({})


def pixels(number: int) -> np.ndarray:
    """Image by number; no two are alike."""
    return np.random.default_rng(number).integers(0, 256, (11, 13, 3), dtype=np.uint8)


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(number)).save(buffer, "PNG")
    return buffer.getvalue()


def write_files(folder: Path, num_images: int, broken: Mapping[int, bytes] | None = None) -> Path:
    """Row i of the folder's manifest is image i, or the broken bytes of that number."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(num_images):
        (folder / f"{i:05d}.png").write_bytes((broken or {}).get(i, png(i)))
    return folder


def write_parquet(folder: Path, file_sizes: Sequence[int], row_group_size: int) -> Path:
    """Files of the given numbers of rows; image i is row i over all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for number, size in enumerate(file_sizes):
        table = pa.table({"image": [png(i) for i in range(first, first + size)]})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=row_group_size)
        first += size
    return folder


VIEWS = v2_views(crop_px=8)


def manifest_of(uri: Path) -> Manifest:
    return build_manifest(DataConfig(uri=str(uri)), NO_OPTIONS)


def stream_spec(global_batch_size: int = 12, num_groups: int = 4, shuffle_bn: bool = True) -> StreamSpec:
    return StreamSpec(
        seed=3,
        global_batch_size=global_batch_size,
        num_groups=num_groups,
        maker=TwoViews(VIEWS, shuffle_bn),
        max_pixels=1000,
    )


def source_of(uri: Path, spec: StreamSpec, holdout: Sequence[int] = (), window_rows: int | None = None) -> Source:
    """A source in the order of new runs; `window_rows` replaces what the listing has found for Parquet files."""
    manifest = manifest_of(uri)
    manifest = manifest.with_holdout(np.isin(np.arange(len(manifest)), holdout))
    if window_rows is not None:
        manifest = replace(manifest, window_rows=window_rows)
    order = make_order(manifest, seed=spec.seed, global_batch_size=spec.global_batch_size)
    return Source(manifest=manifest, train_rows=manifest.train_rows(), order=order, options=NO_OPTIONS)
