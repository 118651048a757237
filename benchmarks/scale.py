"""What millions of images cost before any is read: python -m benchmarks.scale [--json FILE] [--millions 1 5 20].

For synthetic lists of 1, 5 and 20 million files and rows of Parquet files, each in a process of its own:

- start: from a list in memory to a run that can begin (held-out rows, digest, order, a copy for the data tasks), and the
  memory that it takes. Goal: seconds and memory grow no faster than the list (1.3 times as fast at most).
- task: finding the rows of a data task of 256 images, which every task does. Goal: at most twice as long in the longest
  list as in the shortest.
- resume: the same task with a list that was written and read again. Goal: 1.1 times the fresh one's at most.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.harness import Row, at_most, finish
from moco_ray.data.blocks import Source
from moco_ray.data.manifest import Manifest, make_manifest
from moco_ray.data.order import make_order
from moco_ray.storage.storage import Storage, StorageOptions

_TASK_ROWS, _BATCH = 256, 256
_TASKS, _REPEATS = 200, 5
_ROWS_A_FILE, _ROWS_A_GROUP = 4096, 1024
_MOST_GROWTH, _MOST_TASK_GROWTH, _MOST_RESUME = 1.3, 2.0, 1.1
_SMALLEST_TASK_S = 0.5e-3  # below this a task's share is nothing beside decoding its images


def synthetic(kind: str, n: int) -> Manifest:
    """A list of n images that lie nowhere, in ten classes."""
    numbers = np.arange(n)
    labels = (numbers % 10).astype(np.int64)
    classes = tuple(f"class{i}" for i in range(10))
    if kind == "files":
        names = pc.binary_join_element_wise(
            pa.scalar("s3://bucket/data/train/some-class/image-"), pa.array(numbers).cast(pa.string()), ""
        )
        return make_manifest(uris=names, labels=labels, classes=classes, num_bytes=np.full(n, 110_000))
    files = pc.binary_join_element_wise(
        pa.scalar("s3://bucket/data/train/part-"), pa.array(numbers // _ROWS_A_FILE).cast(pa.string()), ""
    )
    inside = numbers % _ROWS_A_FILE
    return make_manifest(
        uris=files,
        labels=labels,
        classes=classes,
        row_groups=inside // _ROWS_A_GROUP,
        rows_in_group=inside % _ROWS_A_GROUP,
        image_column="image",
        window_rows=4096,
    )


def measure(kind: str, n: int) -> dict[str, float]:
    """Seconds and memory of one list, in this process."""
    manifest = synthetic(kind, n)
    holdout = np.zeros(n, dtype=bool)
    holdout[::100] = True
    before = _peak_bytes()
    start = time.perf_counter()
    source = _ready(manifest.with_holdout(holdout))
    found = {"start_s": time.perf_counter() - start, "start_bytes": _peak_bytes() - before}
    found["list_bytes"] = float(manifest.table.nbytes)
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage.open(folder, StorageOptions({}))
        path = storage.join("manifest.parquet")
        source.manifest.write(storage, path)
        start = time.perf_counter()
        resumed = _ready(Manifest.read(storage, path))
        found["resume_start_s"] = time.perf_counter() - start
    found |= _task_seconds({"task_s": source, "resumed_task_s": resumed})
    return found


def _ready(manifest: Manifest) -> Source:
    """All that a driver does with a list before workers start, and what a process of the data tasks gets of it."""
    train_rows = manifest.train_rows()
    manifest.other_rows(train_rows)
    _ = manifest.digest
    order = make_order(manifest, seed=0, global_batch_size=_BATCH)
    source = Source(manifest=manifest, train_rows=train_rows, order=order, options=StorageOptions({}))
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(source, protocol=5, buffer_callback=buffers.append)
    copy: Source = pickle.loads(content, buffers=buffers)
    return copy


def _task_seconds(sources: dict[str, Source]) -> dict[str, float]:
    """Median seconds of a task, in turns; the first task of a process is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for repeat in range(_REPEATS + 1):
        for name, source in sources.items():
            steps = np.linspace(0, len(source.train_rows) // _TASK_ROWS - 1, _TASKS).astype(np.int64)
            start = time.perf_counter()
            for step in steps:
                positions = np.arange(step * _TASK_ROWS, (step + 1) * _TASK_ROWS)
                rows = source.train_rows[source.order.rows(positions)]
                source.manifest.table.take(pa.array(rows))["uri"].to_pylist()
            if repeat:
                seconds[name].append((time.perf_counter() - start) / _TASKS)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _peak_bytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def rows_of(kind: str, found: dict[float, dict[str, float]]) -> list[Row]:
    """Figures of one kind of list, by millions of images."""
    least, most = min(found), max(found)
    growth, rows = most / least, list[Row]()
    for millions, values in found.items():
        case = f"{kind}, {millions:g} million"
        task, resumed = (max(values[name], _SMALLEST_TASK_S) for name in ("task_s", "resumed_task_s"))
        what = f"{case}: a task's rows after a resume against a fresh list's"
        rows.append(at_most(what, 1e3 * resumed, 1e3 * task, "ms", _MOST_RESUME))
    if growth > 1:
        first, last = found[least], found[most]
        tasks = [max(values["task_s"], _SMALLEST_TASK_S) for values in (last, first)]
        case = f"{kind}, {most:g} million against {least:g}"
        rows.append(at_most(f"{case}: a task's rows", 1e3 * tasks[0], 1e3 * tasks[1], "ms", _MOST_TASK_GROWTH))
        for name, what, unit, scale in (
            ("start_s", "seconds to start", "s", 1.0),
            ("list_bytes", "the list", "MB", 1e-6),
        ):
            figures = (scale * last[name], scale * first[name])
            rows.append(at_most(f"{case}: {what}", *figures, unit, _MOST_GROWTH * growth))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None, help="file for the figures")
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 5, 20], help="images, in millions")
    parser.add_argument("--measure", nargs=2, default=None, help=argparse.SUPPRESS)  # what a process of its own does
    args = parser.parse_args()
    if args.measure is not None:
        kind, n = args.measure
        print(json.dumps(measure(kind, int(n))))
        return
    rows = []
    for kind in ("files", "parquet"):
        found = {millions: _in_own_process(kind, int(millions * 1e6)) for millions in args.millions}
        for millions, values in found.items():
            print(
                f"{kind}, {millions:g} million: list {values['list_bytes'] / 1e6:,.0f} MB, start {values['start_s']:.2f} s and "
                f"{values['start_bytes'] / 1e6:,.0f} MB more, resume {values['resume_start_s']:.2f} s, a task "
                f"{1e3 * values['task_s']:.2f} ms, resumed {1e3 * values['resumed_task_s']:.2f} ms",
                flush=True,
            )
        rows += rows_of(kind, found)
    finish(rows, args.json)


def _in_own_process(kind: str, n: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale", "--measure", kind, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
