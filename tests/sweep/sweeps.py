"""Small sweeps for tests: real images, real trials in processes of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from moco_ray.config import Config
from moco_ray.sweep.config import SweepConfig
from moco_ray.sweep.report import SweepResult
from moco_ray.sweep.sweep import sweep
from tests.runs import tiny_config


def sweep_config(uri: str | Path, storage_path: str | Path, **run: Any) -> Config:
    """16 steps in float64, measured every four; one process a trial."""
    config = tiny_config(uri, storage_path, **{"name": "sweep", **run})
    return replace(config, optim=replace(config.optim, epochs=2), eval=replace(config.eval, every_steps=4))


def run_sweep(config: Config, said: list[str] | None = None, **settings: Any) -> SweepResult:
    """Run a sweep of two trials at once, one CPU each."""
    lines = said if said is not None else []
    chosen = SweepConfig(**{"max_concurrent": 2, "cpus_per_trial": 1.0, **settings})

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    result = sweep(chosen, config, say=say)
    assert result is not None
    return result
