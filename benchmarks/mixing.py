"""How rows of Parquet files mix, and what it costs: python -m benchmarks.mixing [--json FILE] [--repeats N].

- classes in a batch of 128 of pictures sorted by class, 100 classes of 500, from row groups of 32 and of 1,000 rows: the
  mean over 100 batches, against the same pictures as single files. Goal 0.9.
- images a second from windows, which one reader shares among the tasks that decode, against tasks that read for
  themselves, as runs did that began before there were windows: the same photos of up to 500 px in row groups of 32, two
  views of 224 px, batches of 64 in 8 groups, windows of four batches; on threads of this process, and through Ray with
  all its CPUs. Counted from the ninth step on: until then processes start. Medians of runs that take turns; goal 0.95.
- first batch from windows: how long it takes to come, against the tasks that read for themselves; on threads. It waits for
  most of its window. Goal: no more than 1.5 times as long.

The photos are those that packages ship.
"""

from __future__ import annotations

import argparse
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Row, at_least, at_most, finish
from benchmarks.photos import shipped_photos, shipped_small
from moco_ray.cluster.ray_stream import rank_blocks, ray_segment
from moco_ray.config.data import DataConfig
from moco_ray.config.views import v2_views
from moco_ray.data.blocks import Block, Source, StreamSpec
from moco_ray.data.makers import TwoViews
from moco_ray.data.manifest import Manifest
from moco_ray.data.order import make_order
from moco_ray.data.segments import local_segment
from moco_ray.data.sources import build_manifest
from moco_ray.storage.storage import StorageOptions

NUM_CLASSES, ROWS_EACH, BATCH = 100, 500, 128
NUM_PHOTOS, SPEED_BATCH, FIRST_STEP, STEPS = 1024, 64, 8, 32
MIXING_GOAL, SPEED_GOAL, FIRST_GOAL = 0.9, 0.95, 1.5
NO_OPTIONS = StorageOptions({})


def listed(folder: Path) -> Manifest:
    return build_manifest(DataConfig(uri=str(folder)), NO_OPTIONS)


def classes_of_batches(manifest: Manifest) -> float:
    """Mean number of classes in a batch, over 100 batches of three epochs."""
    order = make_order(manifest, seed=0, global_batch_size=BATCH)
    steps = np.linspace(0, 3 * len(manifest) // BATCH - 1, 100).astype(np.int64)
    labels = manifest.labels[order.rows(steps[:, None] * BATCH + np.arange(BATCH))]
    return float(np.mean([len(np.unique(batch)) for batch in labels]))


def mixing_rows(folder: Path) -> list[Row]:
    """Classes in a batch, which do not depend on what the pictures show."""
    image = shipped_small(32)[0]
    names = [f"{row // ROWS_EACH:03d}" for row in range(NUM_CLASSES * ROWS_EACH)]
    for name in sorted(set(names)):
        (folder / "files" / name).mkdir(parents=True)
    for row, name in enumerate(names):
        (folder / "files" / name / f"{row}.jpg").write_bytes(image)
    files = classes_of_batches(listed(folder / "files"))
    rows = []
    for group in (32, 1000):
        target = folder / f"groups of {group}"
        target.mkdir()
        table = pa.table({"image": [image] * len(names), "label": names})
        pq.write_table(table, target / "rows.parquet", row_group_size=group, use_dictionary=["label"])
        found = classes_of_batches(listed(target))
        rows.append(at_least(f"classes in a batch, row groups of {group:,}", found, files, "classes", MIXING_GOAL))
    return rows


def sources(folder: Path, spec: StreamSpec) -> dict[str, Source]:
    """The same photos from windows of four batches, and in the order of runs before windows."""
    folder.mkdir()
    photos = shipped_photos(500)
    table = pa.table({"image": [photos[row % len(photos)] for row in range(NUM_PHOTOS)]})
    pq.write_table(table, folder / "rows.parquet", row_group_size=32, use_dictionary=False)
    windows = replace(listed(folder), window_rows=4 * SPEED_BATCH)
    made = {}
    for name, manifest in {"windows": windows, "tasks": replace(windows, order_version=1)}.items():
        order = make_order(manifest, seed=0, global_batch_size=SPEED_BATCH)
        made[name] = Source(manifest=manifest, train_rows=manifest.train_rows(), order=order, options=NO_OPTIONS)
    return made


def timed(blocks: Iterable[Block]) -> tuple[float, float]:
    """Seconds to the first batch, and from the first that counts to the end."""
    start = time.perf_counter()
    first_s = counted_s = 0.0
    for block in blocks:
        now = time.perf_counter() - start
        first_s = first_s or now
        if int(block["first_step"]) == FIRST_STEP and not counted_s:
            counted_s = now
    return first_s, time.perf_counter() - start - counted_s


def take_turns(runs: dict[str, Callable[[], Iterable[Block]]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median seconds of each, after one run that does not count."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            seconds[name].append(timed(run()))
    return {name: (float(a), float(b)) for name, (a, b) in ((k, np.median(v[1:], axis=0)) for k, v in seconds.items())}


def speed_row(case: str, seconds: dict[str, tuple[float, float]]) -> Row:
    rates = {name: (STEPS - FIRST_STEP) * SPEED_BATCH / run_s for name, (_, run_s) in seconds.items()}
    return at_least(f"images from windows, {case}", rates["windows"], rates["tasks"], "images/s", SPEED_GOAL)


def first_row(seconds: dict[str, tuple[float, float]]) -> Row:
    return at_most("first batch from windows, threads", seconds["windows"][0], seconds["tasks"][0], "s", FIRST_GOAL)


def speed_rows(folder: Path, repeats: int) -> list[Row]:
    import ray

    spec = StreamSpec(
        seed=0,
        global_batch_size=SPEED_BATCH,
        num_groups=8,
        maker=TwoViews(v2_views(), shuffle_bn=True),
        max_pixels=10**8,
    )
    made = sources(folder, spec)
    local = {name: partial(local_segment, spec, source, 0, STEPS) for name, source in made.items()}
    on_threads = take_turns(local, repeats)
    ray.init(address="local", include_dashboard=False, logging_level="warning")
    try:
        placed = {name: ray.put(source) for name, source in made.items()}
        remote = {
            name: lambda at=reference: rank_blocks(ray_segment(spec, at, 0, STEPS, 1)[0])
            for name, reference in placed.items()
        }
        on_ray = take_turns(remote, repeats)
    finally:
        ray.shutdown()
    return [speed_row("threads", on_threads), speed_row("Ray", on_ray), first_row(on_threads)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each side")
    options = parser.parse_args(arguments)
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        finish([*mixing_rows(folder), *speed_rows(folder / "photos", options.repeats)], options.json)


if __name__ == "__main__":
    main()
