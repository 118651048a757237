"""What a tracker is told of a run: its name, its settings, and points of its curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moco_ray.config import to_json
from moco_ray.config.reading import flat_values
from moco_ray.run_folder.metrics import Line
from moco_ray.storage.uris import without_secrets
from moco_ray.tasks.job import Job

EVALUATION = "eval/"
"""How the names of measures of eval.jsonl begin."""
_OF_NO_CURVE = ("step", "position", "rows_digest")
_OF_EACH_STEP = {"train/loss", "epoch", "world_size"}

Point = dict[str, Any]
"""A step and the values of its metrics."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A run, as a tracker lists it. Holds no credentials."""

    key: str
    """What tells it from all other runs, whatever their names."""
    name: str
    """Its name."""
    folder: str
    """Its folder."""
    tags: Mapping[str, str]
    """What it is."""
    params: Mapping[str, Any]
    """Its configuration, one value a field: optim.lr."""


def card_of(job: Job, key: str) -> Card:
    """The card of a run."""
    config, options = job.config, [job.run_options]
    tags = {"task": config.task, "preset": config.preset, "arch": config.model.arch}
    if config.task == "pretraining":
        tags["method"] = config.method.name
    return Card(
        key=key,
        name=str(config.run.name),
        folder=without_secrets(job.run_uri, options),
        tags=tags,
        params={
            name: without_secrets(value, options) if isinstance(value, str) else value
            for name, value in _params(json.loads(to_json(config)))
        }
        | {"images": job.num_rows, "steps": job.last_step},
    )


def point_of(line: Line) -> Point | None:
    """What curves show of a line of metrics.jsonl or eval.jsonl; None for a step that was only counted, with its loss."""
    values = {name: value for name, value in line.items() if name not in _OF_NO_CURVE}
    values = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return {"step": line["step"], "values": values} if values.keys() - _OF_EACH_STEP else None


def is_evaluation(point: Point) -> bool:
    """Whether a point is of eval.jsonl."""
    return any(name.startswith(EVALUATION) for name in point["values"])


def _params(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    flat = flat_values(values).items()
    return [(n, ", ".join(map(str, v)) if isinstance(v, list) else v) for n, v in flat if v is not None]
