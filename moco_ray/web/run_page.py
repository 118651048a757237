"""One run: its report, or what is known without one; its configuration and its files."""

from __future__ import annotations

from typing import Any

from moco_ray.report.words import change_words, size_words
from moco_ray.storage.uris import shown
from moco_ray.web.charts import Charts, Drawn, charts_of
from moco_ray.web.configurations import fields_of
from moco_ray.web.curves import CurvesOfRuns
from moco_ray.web.details import interruptions_of
from moco_ray.web.links import REPORT, compare_url, report_url
from moco_ray.web.table import row_of
from moco_ray.web.watch import Seen, config_of

_INDEX = f"{REPORT}/index.html"
_DRAWN = f"{REPORT}/curves.png"  # which stand above
_PICTURES = (".png", ".svg", ".jpg", ".webp")
_MOST_FILES, _MOST_PICTURES = 300, 24


def run_page(seen: Seen, curves: CurvesOfRuns, now: float) -> dict[str, Any]:
    """What the template of one run shows; reads the run's files.

    Args:
        seen: The run.
        curves: Those that were read before.
        now: In seconds since 1970.

    Raises:
        OSError: The storage does not answer.
    """
    run, name = seen.run, shown(seen.run.name)
    has_report = _INDEX in run.files
    num_bytes, changed_at = run.files.get(_INDEX, (0, 0.0))
    interruptions = interruptions_of(run)
    charts, notes = Charts(), list[str]()
    if not has_report or seen.summary.state in ("running", "unknown"):
        measured = curves.of(run)
        charts = charts_of([Drawn(name=name, columns=measured.columns, interruptions=interruptions)], "step")
        notes = [shown(note) for note in measured.notes]
    changes = {path: change_words(*values) for path, values in seen.summary.changes.items()}
    pictures = sorted(path for path in run.files if path.startswith(f"{REPORT}/") and path.endswith(_PICTURES))
    pictures = [path for path in pictures if path != _DRAWN]
    files = sorted(run.files.items())
    return {
        "row": row_of(seen, now),
        "uri": shown(seen.summary.uri),
        "checkpoint": seen.summary.checkpoint,
        "report": report_url(name, "index.html") if has_report else None,
        "report_version": f"{num_bytes}-{changed_at:.6f}",
        "pictures": [] if has_report else [_picture(name, path) for path in pictures[:_MOST_PICTURES]],
        "charts": charts,
        "notes": notes,
        "fields": [(shown(path), text, path in changes) for path, text in fields_of(config_of(run)).items()],
        "changes": [(shown(path), shown(text)) for path, text in changes.items()],
        "interruptions": [(f"{mark.step:,.0f}", mark.text) for mark in interruptions],
        "files": [(shown(path), size_words(info[0])) for path, info in files[:_MOST_FILES]],
        "num_files": len(files),
        "compare": compare_url([name]),
        "is_live": seen.summary.state in ("running", "unknown"),
    }


def _picture(name: str, path: str) -> tuple[str, str]:
    file = path.removeprefix(f"{REPORT}/")
    return report_url(name, file), file.rsplit(".", 1)[0].replace("_", " ")
