"""Is a GPU used as it should be: python -m benchmarks.gpu [SECTION ...] [--json FILE].

Needs neither Ray nor a storage, and torch 2.11 or newer. Without sections, all but cifar10 run, in about five minutes
on an H100. Each has a process of its own, since a device whose kernel has failed is lost to its process; it says how
long it took, and FILE is written anew after each.

- correct: every method, with each optimizer and with micro-batches, in float64 against the CPU. ranks: the same on two
  and three ranks that share the device.
- syncs: lines of a step in which the host waits for the device. Goal: none.
- step: a whole training step against bare backbones; goals are shares of their speed. compiled: both compiled.
- kernels: how many a step launches. h2d: what copying a batch costs. oom: a batch for which there is no room. loss:
  InfoNCE alone.
- views: views of whole batches on the device. knn: an evaluation's classification there.
- cifar10: the MoCo authors' demo, 200 epochs (--cifar ARCHIVE, --epochs, --symmetric, --budget-s).

With --tiny everything runs on a CPU within a minute, with sizes that say nothing of speed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.device.cifar10 import cifar10
from benchmarks.device.correct import correct, ranks
from benchmarks.device.cost import compiled, h2d, kernels, loss, oom, step, syncs
from benchmarks.device.setup import Place
from benchmarks.device.views import views
from benchmarks.harness import Row, device, finish, read_json, write_json
from benchmarks.knn import knn_row


def knn(place: Place) -> list[Row]:
    """kNN of 10,000 images against 50,000."""
    if place.is_tiny:
        return [knn_row(place.device, num_queries=100, num_bank=500)]
    return [knn_row(place.device)]


SECTIONS: dict[str, Callable[[Place], list[Row]]] = {
    section.__name__: section
    for section in (correct, ranks, syncs, kernels, step, h2d, loss, oom, views, knn, compiled, cifar10)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all: but cifar10")
    parser.add_argument("--json", default=None, help="file for the figures")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, on any device")
    parser.add_argument("--cifar", type=Path, default=None, help="archive of CIFAR-10 as JPEGs SPLIT/CLASS/NAME.jpg")
    parser.add_argument("--epochs", type=int, default=200, help="of cifar10")
    parser.add_argument("--symmetric", action="store_true", help="cifar10 with a loss that goes both ways")
    parser.add_argument("--budget-s", type=float, default=480.0, help="seconds after which cifar10 ends")
    args = parser.parse_args()
    if unknown := [name for name in args.sections if name not in (*SECTIONS, "all")]:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if not torch.cuda.is_available() and not args.tiny:
        parser.error("there is no CUDA device here; --tiny shows on the CPU that everything runs")
    place = Place(
        device=torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"),
        is_tiny=args.tiny,
        cifar=args.cifar,
        epochs=args.epochs,
        symmetric=args.symmetric,
        budget_s=args.budget_s,
    )
    if not place.is_cuda:
        torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    names = [name for name in args.sections if name != "all"]
    if not args.sections or "all" in args.sections:
        names = [name for name in SECTIONS if name != "cifar10" or args.tiny or name in names]
    print(f"{device()}, torch {torch.__version__}", flush=True)
    rows: list[Row] = []
    for name in names:
        alone = place.is_cuda and len(names) > 1
        rows += _rows_of_own_process(name) if alone else _rows(name, place)
        if args.json is not None:
            write_json(rows, args.json)
    finish(rows, args.json)


def _rows_of_own_process(name: str) -> list[Row]:
    """The figures of a section that this command measures with the same flags and no other section."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        flags = [flag for flag in sys.argv[1:] if flag not in (*SECTIONS, "all")]
        subprocess.run([sys.executable, "-m", "benchmarks.gpu", name, *flags, "--json", str(path)], check=False)
        return read_json(path) if path.exists() else [_failure(name)]


def _rows(name: str, place: Place) -> list[Row]:
    """The figures of a section; one that fails is a goal that was missed."""
    print(f"{name} ...", flush=True)
    start = time.perf_counter()
    try:
        rows = SECTIONS[name](place)
    except Exception:
        traceback.print_exc()
        rows = [_failure(name)]
    print(
        f"{name}: {time.perf_counter() - start:.0f} s, {sum(row.passed for row in rows)} of {len(rows)} goals met",
        flush=True,
    )
    return rows


def _failure(name: str) -> Row:
    return Row(case=f"{name} failed", value=1, unit="failures", baseline=0, ratio=1, goal=0, passed=False)


if __name__ == "__main__":
    main()
