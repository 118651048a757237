"""results.json: what a finished run of training on labels or boxes has come to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from moco_ray.config import Config
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import without_secrets

RESULTS = "results.json"


def write_results(
    run: Storage, config: Config, classes: Sequence[str], *, num_train: int, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the last evaluation of a run as one JSON object, and return it.

    Args:
        run: The run's folder.
        config: Of the run.
        classes: Names of what is told apart.
        num_train: Images that were trained on.
        extra: What else is known.
    """
    evaluations = stored_lines(run, "eval.jsonl")
    last = evaluations[-1] if evaluations else {}
    measures = {name.removeprefix("eval/"): value for name, value in last.items() if name.startswith("eval/")}
    best = {
        name.removeprefix("eval/"): max(line[name] for line in evaluations if name in line)
        for name in ("eval/top1", "eval/auroc", "eval/AP")
        if any(name in line for line in evaluations)
    }
    results: dict[str, Any] = {
        "task": config.task,
        "preset": config.preset,
        "run": str(config.run.name),
        "init": config.model.init and without_secrets(config.model.init),
        "arch": config.model.arch,
        "data": without_secrets(config.data.uri),
        "classes": list(classes),
        "num_train": num_train,
        "num_test": int(measures.pop("num_images", 0)),
        "label_fraction": config.data.label_fraction,
        "steps": last.get("step"),
        "epochs": config.optim.epochs,
        "seed": config.run.seed,
        **measures,
        "best": best,
        **extra,
    }
    if "per_class" in last:
        results["per_class"] = dict(zip(classes, last["per_class"], strict=True))
    if "confusion" in last:
        results["confusion"] = last["confusion"]
    run.write_bytes(run.join(RESULTS), json.dumps(results, indent=1).encode())
    return results
