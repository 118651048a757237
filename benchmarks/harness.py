"""What all benchmarks share: runs that take turns, and a table of figures against their goals."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

_PACKAGES = ("moco_ray", "torch", "torchvision", "ray", "numpy", "pillow", "simplejpeg", "opencv-python-headless")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured case."""

    case: str
    """What was measured, and against what."""
    value: float
    """Our figure."""
    unit: str
    """Of value and baseline."""
    baseline: float
    """The peer's figure, or the limit."""
    ratio: float
    """Ours to the baseline's; which way is better is the benchmark's to say."""
    goal: float
    """What the ratio has to reach or stay below."""
    passed: bool
    """Whether it does."""


def at_most(case: str, value: float, baseline: float, unit: str, goal: float = 1.0, *, is_judged: bool = True) -> Row:
    """A figure whose ratio to the baseline should not be above the goal; one that is not judged passes."""
    ratio = value / baseline
    passed = not is_judged or ratio <= goal
    return Row(case=case, value=value, unit=unit, baseline=baseline, ratio=ratio, goal=goal, passed=passed)


def at_least(case: str, value: float, baseline: float, unit: str, goal: float = 1.0, *, is_judged: bool = True) -> Row:
    """A figure whose ratio to the baseline should not be below the goal; one that is not judged passes."""
    ratio = value / baseline
    passed = not is_judged or ratio >= goal
    return Row(case=case, value=value, unit=unit, baseline=baseline, ratio=ratio, goal=goal, passed=passed)


def waiting(work: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Work that ends only when the device is done."""

    def run() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def interleave(
    fns: Mapping[str, Callable[[], object]], repeats: int, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Time functions in turns, so that a neighbour's load falls on all of them alike.

    Args:
        fns: Functions by name; each runs once more at first, untimed.
        repeats: Timed runs of each, at least 1.
        clock: Tells seconds; `time.process_time` leaves out what other processes take of the cores.

    Returns:
        Median seconds of a run, by name.
    """
    for fn in fns.values():
        fn()
    seconds: dict[str, list[float]] = {name: [] for name in fns}
    for _ in range(repeats):
        for name, fn in fns.items():
            start = clock()
            fn()
            seconds[name].append(clock() - start)
    return {name: statistics.median(runs) for name, runs in seconds.items()}


def finish(rows: Sequence[Row], json_path: str | None) -> None:
    """Print the rows, write them as JSON if a path is given, and exit with status 1 when a goal is missed."""
    table = Table("case", "value", "baseline", "ratio", "goal", "")
    for row in rows:
        figures = (f"{row.value:.4g} {row.unit}", f"{row.baseline:.4g} {row.unit}", f"{row.ratio:.2f}", f"{row.goal:g}")
        table.add_row(row.case, *figures, "ok" if row.passed else "[bold]missed[/bold]")
    Console(width=120).print(table)
    if json_path is not None:
        write_json(rows, json_path)
    if not all(row.passed for row in rows):
        sys.exit(1)


def write_json(rows: Sequence[Row], path: str | Path) -> None:
    """Write the rows, and what they were measured on and with."""
    report = {"device": device(), "versions": versions(), "rows": [_as_json(row) for row in rows]}
    Path(path).write_text(json.dumps(report, indent=2) + "\n")


def read_json(path: str | Path) -> list[Row]:
    """Read the rows that `write_json` wrote."""
    found: list[dict[str, Any]] = json.loads(Path(path).read_text())["rows"]
    return [Row(**{name: value for name, value in row.items() if name != "pass"}, passed=row["pass"]) for row in found]


def device() -> str:
    """Name the accelerator, or the processor where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a figure; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _as_json(row: Row) -> dict[str, object]:
    values = asdict(row)
    values["pass"] = bool(values.pop("passed"))
    return values
