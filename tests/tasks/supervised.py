"""Small runs of training on labels, for tests: as `tests.runs`, with BatchNorm groups of six."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from moco_ray.config import Config
from moco_ray.config.config import TaskName
from moco_ray.config.eval import EvalConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.config.transfer_presets import crops
from tests.runs import tiny_config

_RATES: dict[TaskName, float] = {"linear-probe": 1.0, "finetune": 0.5}


def labels_config(task: TaskName, uri: str | Path, storage_path: str | Path, **run: Any) -> Config:
    """Four BatchNorm groups of six in float64, on one crop of each image; in this process by default."""
    config = tiny_config(uri, storage_path, **run)
    return replace(
        config,
        task=task,
        preset="linear-small" if task == "linear-probe" else "finetune",
        views=crops(crop_px=32, crop_min=0.6),
        optim=OptimConfig(global_batch_size=24, bn_groups=4, epochs=3, lr=_RATES[task], schedule_per="step"),
        eval=EvalConfig(max_time_fraction=1.0),
    )


def with_init(config: Config, encoder: str | Path) -> Config:
    """The same from an encoder."""
    return replace(config, model=replace(config.model, init=str(encoder)))


def with_data(config: Config, **data: Any) -> Config:
    """The same with other images or labels."""
    return replace(config, data=replace(config.data, **data))


def results_of(folder: str | Path) -> dict[str, Any]:
    """results.json of a finished run."""
    read: dict[str, Any] = json.loads((Path(folder) / "results.json").read_text())
    return read


def evaluations_of(folder: str | Path) -> list[dict[str, Any]]:
    """Lines of eval.jsonl."""
    return [json.loads(line) for line in (Path(folder) / "eval.jsonl").read_text().splitlines()]
