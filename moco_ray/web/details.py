"""What the pages of single runs and of comparisons read of a run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from moco_ray.data.manifest import Manifest
from moco_ray.report.charts import Mark
from moco_ray.report.run_charts import interruption_marks
from moco_ray.run_folder.found import FoundRun
from moco_ray.run_folder.interruptions import INTERRUPTIONS
from moco_ray.run_folder.names import MANIFEST
from moco_ray.web.watch import config_of, group_of

_MOST_INTERRUPTIONS = 1000


def interruptions_of(run: FoundRun) -> list[Mark]:
    """The run's interruptions; lines that cannot be read are left out."""
    lines: list[dict[str, Any]] = []
    for text in (run.read(INTERRUPTIONS) or b"").splitlines()[:_MOST_INTERRUPTIONS]:
        with suppress(ValueError):
            line = json.loads(text)
            lines += [{"cause": "unknown", **line}] if isinstance(line, dict) else []
    return interruption_marks(lines)


def steps_per_epoch(run: FoundRun, config: Mapping[str, Any] | None = None) -> float | None:
    """How many steps see each image once; None if the run's files do not say."""
    batch = group_of(dict(config_of(run) if config is None else config), "optim").get("global_batch_size")
    if MANIFEST not in run.files or not isinstance(batch, int) or batch < 1:
        return None
    try:
        rows = Manifest.count_train_rows(run.storage, run.storage.join(MANIFEST))
    except ValueError:
        return None
    return rows / batch if rows else None
