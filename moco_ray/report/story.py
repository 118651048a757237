"""What a run's folder tells for its report: whatever is damaged or missing is left out and said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moco_ray.report.run_curves import RunCurves
from moco_ray.run_folder.evaluations import FOLDER as EVALUATED
from moco_ray.run_folder.found import FoundRun
from moco_ray.run_folder.interruptions import INTERRUPTIONS
from moco_ray.run_folder.names import CONFIG
from moco_ray.run_folder.results import RESULTS
from moco_ray.run_folder.sessions import SESSIONS
from moco_ray.run_folder.summary import EVALUATIONS, RunSummary

FACTS, ENVIRONMENT = "report/images.json", "report/environment.json"
PICTURES = ("views", "neighbours", "map", "bad")
_BAD = "bad_images.jsonl"
_MOST_BAD, _MOST_EVALUATED, _MOST_BYTES = 200, 100, 3_000_000

Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Story:
    """All that a report is made of."""

    run: FoundRun
    """The folder."""
    summary: RunSummary
    """What it is and how far it came."""
    curves: RunCurves
    """Of metrics."""
    config: Line
    """config.json, of any version; empty if it cannot be read."""
    evals: list[Line]
    """Of eval.jsonl, by step."""
    interruptions: list[Line]
    """Of interruptions.jsonl."""
    bad: list[Line]
    """The first bad images: row, uri, reason."""
    num_bad: int
    """All of them."""
    sessions: list[Line]
    """When it began and went on."""
    results: Line
    """results.json; empty while a run goes on, and of pretraining."""
    evaluated: list[Line]
    """What else was measured of its encoder."""
    facts: Line
    """About its images."""
    environment: Line
    """What rank 0 runs on."""
    pictures: dict[str, Line]
    """Views, neighbours and the map, as they were made."""
    damage: list[str] = field(default_factory=list)
    """What cannot be read."""

    def of_config(self, path: str, default: Any = None) -> Any:
        """A value of the configuration; the default where it has no such field."""
        value: Any = self.config
        for name in path.split("."):
            if not isinstance(value, Mapping) or name not in value:
                return default
            value = value[name]
        return value


def read_story(run: FoundRun, summary: RunSummary, curves: RunCurves) -> Story:
    """Read what there is.

    Args:
        run: The folder, listed.
        summary: Of the same.
        curves: Those that were read before; what has come since is added.
    """
    damage: list[str] = list(summary.damage)
    curves.read(run)
    known = [text for text in damage if text.startswith(EVALUATIONS)]
    evals = _lines(run, EVALUATIONS, [] if known else damage, key="step")
    bad_content = run.read(_BAD) or b""
    num_bad = bad_content.count(b"\n")
    bad = _lines(run, _BAD, damage, key="uri", content=b"\n".join(bad_content.split(b"\n", _MOST_BAD)[:_MOST_BAD]))
    evaluated = sorted(path for path in run.files if path.startswith(f"{EVALUATED}/") and path.endswith(".json"))
    measured = [_object(run, path, damage) for path in evaluated[:_MOST_EVALUATED]]
    return Story(
        run=run,
        summary=summary,
        curves=curves,
        config=_object(run, CONFIG, []),
        evals=sorted(evals, key=lambda line: line["step"]),
        interruptions=_lines(run, INTERRUPTIONS, damage, key="cause"),
        bad=bad,
        num_bad=num_bad,
        sessions=_lines(run, SESSIONS, damage, key="at_s"),
        results=_object(run, RESULTS, damage),
        evaluated=sorted((one for one in measured if one), key=lambda one: str(one.get("at_s"))),
        facts=_object(run, FACTS, damage),
        environment=_object(run, ENVIRONMENT, damage),
        pictures={name: _object(run, f"report/{name}.json", damage) for name in PICTURES},
        damage=[*damage, *curves.damage],
    )


def _object(run: FoundRun, name: str, damage: list[str]) -> Line:
    if name not in run.files or run.files[name][0] > _MOST_BYTES:
        return {}
    try:
        value = json.loads(run.read(name) or b"{}")
        if isinstance(value, dict):
            return value
        damage.append(f"{name} is no JSON object")
    except (ValueError, RecursionError) as error:
        damage.append(f"{name} is damaged ({error})")
    return {}


def _lines(run: FoundRun, name: str, damage: list[str], *, key: str, content: bytes | None = None) -> list[Line]:
    """The lines of a file that are whole, each an object that has a key."""
    lines: list[Line] = []
    for number, text in enumerate((content if content is not None else run.read(name) or b"").splitlines(), start=1):
        try:
            line = json.loads(text)
            is_whole = isinstance(line, dict) and key in line and (key != "step" or isinstance(line["step"], int))
        except (ValueError, RecursionError):
            is_whole = False
        if is_whole:
            lines.append(line)
        else:
            damage.append(f"{name}: line {number} is damaged, and left out")
    return lines
