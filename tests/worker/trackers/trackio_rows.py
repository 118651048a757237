"""What Trackio's database holds, read without Trackio."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

Row = tuple[int, dict[str, Any]]


def trackio_rows(folder: Path, key: str | None = None) -> list[Row]:
    """Steps and values of all rows of the project as they came; of which none may be of another run than that of the key."""
    path = folder / "moco_ray.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as database:
        try:
            rows = database.execute("SELECT run_id, run_name, step, metrics FROM metrics ORDER BY id").fetchall()
        except sqlite3.OperationalError:  # its tables are being made
            return []
    assert {(run_id, name) for run_id, name, _, _ in rows} <= {(key or run_id, "run") for run_id, *_ in rows}
    return [(step, json.loads(metrics)) for _, _, step, metrics in rows]


def trackio_configs(folder: Path) -> list[dict[str, Any]]:
    """The settings of each run."""
    with closing(sqlite3.connect(folder / "moco_ray.db")) as database:
        return [json.loads(config) for (config,) in database.execute("SELECT config FROM configs")]
