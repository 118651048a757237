"""The table of runs: which of them, in which order, and what stands in their rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from moco_ray.report.metrics import metric_of
from moco_ray.report.texts import is_number
from moco_ray.report.words import change_words, hours_words, size_words, time_words
from moco_ray.run_folder.summary import RunSummary
from moco_ray.storage.uris import shown
from moco_ray.web.figures import value_text
from moco_ray.web.links import run_url, sweep_report_url
from moco_ray.web.watch import Seen, Snapshot

STATES = ("running", "unknown", "ended", "stopped", "failed", "damaged")
COLUMNS = {
    "name": "run",
    "state": "state",
    "progress": "progress",
    "best": "best",
    "hours": "device time",
    "size": "size",
    "age": "written",
}
_DESCENDING_FIRST = ("progress", "best", "hours", "size")
_PER_PAGE, _FEW_TRIALS, _MOST_CHANGES = 200, 6, 8
_LONGEST, _LONGEST_WORD = 200, 40
Changes = frozenset[tuple[str, str]]
"""Paths of fields, and how they differ from the preset."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is asked of the table, as its address says."""

    q: str = ""
    """Words that must all be found in a row."""
    state: str = ""
    """Only runs of this state."""
    task: str = ""
    """Only those of this task."""
    preset: str = ""
    """Only those of this preset."""
    sort: str = ""
    """A column, behind a minus for the other way round; empty: as they come, newest first."""
    open: str = ""
    """The sweep whose trials are shown though they are many; "*": all."""
    page: int = 1
    """Which page of rows."""

    @classmethod
    def read(cls, values: Mapping[str, str]) -> Query:
        """From the parameters of an address; what cannot be meant counts as not given."""
        texts = {name: values.get(name, "")[:_LONGEST] for name in ("q", "state", "task", "preset", "sort", "open")}
        if texts["sort"].removeprefix("-") not in COLUMNS:
            texts["sort"] = ""
        page = values.get("page", "")
        return cls(**texts, page=max(1, int(page)) if page.isascii() and page.isdigit() and len(page) < 6 else 1)

    @property
    def is_narrow(self) -> bool:
        """Whether only some of the runs are asked for."""
        return bool(self.q or self.state or self.task or self.preset)

    def url(self, **changes: Any) -> str:
        """The address of the table with something else asked for; of another order or choice, the first page."""
        values = {**vars(self), "page": 1, **changes}
        given = {name: value for name, value in values.items() if value not in ("", 1)}
        return "/" + (f"?{urlencode(given)}" if given else "")

    def sorted_by(self, column: str) -> str:
        """The address of the table sorted by a column, the other way round if it is already."""
        first, other = (f"-{column}", column) if column in _DESCENDING_FIRST else (column, f"-{column}")
        return self.url(sort=other if self.sort == first else first)

    def fits(self, seen: Seen) -> bool:
        """Whether a run is one of those that are asked for, whatever its state."""
        run = seen.summary
        if (self.task and run.task != self.task) or (self.preset and run.preset != self.preset):
            return False
        changes = [f"{path} {change_words(*values)}" for path, values in run.changes.items()]
        text = "\n".join([shown(run.name), run.state, run.task, run.preset or "", run.reason, *changes]).casefold()
        return all(word in text for word in self.q.casefold().split())


def chosen(snapshot: Snapshot, query: Query) -> list[Seen]:
    """The runs that are asked for, in order."""
    runs = [one for one in snapshot.runs.values() if query.fits(one) and query.state in ("", one.summary.state)]
    return _in_order(runs, query.sort)


def table_of(snapshot: Snapshot, query: Query, now: float) -> dict[str, Any]:
    """What the template of the table shows.

    Args:
        snapshot: All runs.
        query: What is asked for.
        now: In seconds since 1970.
    """
    fitting = [one for one in snapshot.runs.values() if query.fits(one)]
    counts = Counter(one.summary.state for one in fitting)
    runs = _in_order([one for one in fitting if query.state in ("", one.summary.state)], query.sort)
    groups = _groups(runs, query)
    common = common_changes(runs)
    num_pages = max(1, math.ceil(len(groups) / _PER_PAGE))
    page = min(query.page, num_pages)
    shown_groups = groups[(page - 1) * _PER_PAGE : page * _PER_PAGE]
    return {
        "groups": [_group(name, members, query, now, common) for name, members in shown_groups],
        "common": words_of(common),
        "columns": [_head(name, title, query) for name, title in COLUMNS.items()],
        "query": query,
        "states": [(name, counts[name], query.url(state=name)) for name in STATES if counts[name]],
        "num_fitting": len(fitting),
        "num_shown": len(runs),
        "num_all": len(snapshot.runs),
        "tasks": sorted({one.summary.task for one in snapshot.runs.values()}),
        "presets": sorted({one.summary.preset for one in snapshot.runs.values() if one.summary.preset}),
        "pages": [(number, query.url(page=number)) for number in range(1, num_pages + 1)],
        "page": page,
    }


def _head(name: str, title: str, query: Query) -> dict[str, str]:
    order = {name: "ascending", f"-{name}": "descending"}.get(query.sort, "")
    return {"name": name, "title": title, "order": order, "url": query.sorted_by(name)}


def _in_order(runs: Iterable[Seen], sort: str) -> list[Seen]:
    """Sorted by a column; runs that have no value there come last either way."""
    column, is_descending = sort.removeprefix("-"), sort.startswith("-")
    if not column:
        return list(runs)
    keyed = [(_sort_value(one, column), one) for one in runs]
    known = sorted((pair for pair in keyed if pair[0] is not None), key=lambda pair: pair[0], reverse=is_descending)
    return [one for _, one in known] + [one for value, one in keyed if value is None]


def _sort_value(seen: Seen, column: str) -> Any:
    run = seen.summary
    if column == "best":
        return run.best["value"] if run.best is not None and is_number(run.best["value"]) else None
    if column == "progress":
        return run.step / run.last_step if run.last_step else None
    if column == "hours":
        return None if run.device_hours is None else sum(run.device_hours.values())
    if column == "state":
        return STATES.index(run.state) if run.state in STATES else len(STATES)
    return {"name": run.name.casefold(), "size": run.num_bytes, "age": -run.changed_at}[column]


def _groups(runs: Iterable[Seen], query: Query) -> list[tuple[str, list[Seen]]]:
    """Runs in their order, each alone, and trials at the place of the first of their sweep; split where they are many."""
    groups: dict[tuple[str, str], list[Seen]] = {}
    for one in runs:
        sweep = one.run.name.split("/", 1)[0] if "/" in one.run.name else ""
        groups.setdefault((sweep, "" if sweep else one.run.name), []).append(one)
    found = []
    for (sweep, _), members in groups.items():
        found.append((sweep, members[:_PER_PAGE] if sweep else members))
        found += [(sweep, members[i : i + _PER_PAGE]) for i in range(_PER_PAGE, len(members), _PER_PAGE)]
    return found


def _group(name: str, members: list[Seen], query: Query, now: float, told: Changes) -> dict[str, Any]:
    """A sweep with its trials, or a run that is alone; the changes in `told` are shown elsewhere."""
    if not name:
        return {"sweep": None, "rows": [row_of(one, now, told) for one in members]}
    common = common_changes(members)
    is_open = query.is_narrow or query.open in (shown(name), "*") or len(members) <= _FEW_TRIALS
    best = _in_order(sorted(members, key=lambda one: one.run.name), "-best")[0]
    counts = Counter(one.summary.state for one in members)
    return {
        "sweep": shown(name),
        "report": sweep_report_url(shown(name)),
        "common": words_of(common - told),
        "rows": [row_of(one, now, told | common, is_trial=True) for one in members] if is_open else [],
        "num_trials": len(members),
        "states": [(state, counts[state]) for state in STATES if counts[state]],
        "best": row_of(best, now)["best"],
        "best_row": row_of(best, now, is_trial=True),
        "toggle": None if len(members) <= _FEW_TRIALS or query.is_narrow else query.url(open="" if is_open else name),
        "is_open": is_open,
    }


def common_changes(runs: Sequence[Seen]) -> Changes:
    """What all of several runs have changed alike; nothing of one."""
    return frozenset.intersection(*(_changes(one) for one in runs)) if len(runs) > 1 else frozenset()


def words_of(changes: Changes) -> list[str]:
    """Changes in words."""
    return [f"{path} {words}" for path, words in sorted(changes)]


def row_of(seen: Seen, now: float, told: Changes = frozenset(), *, is_trial: bool = False) -> dict[str, Any]:
    """What is shown of a run.

    Args:
        seen: The run.
        now: In seconds since 1970.
        told: Changes that are shown elsewhere.
        is_trial: Whether its sweep is named already.
    """
    run, name = seen.summary, shown(seen.run.name)
    pace = [] if seen.images_per_s is None else [f"{_rate(seen.images_per_s)} img/s"]
    if seen.seconds_left is not None:
        pace.append(f"{time_words(seen.seconds_left)} left")
    own = _changes(seen) - told
    changes = [f"{path} {words}" for path, words in _changes_in_order(seen) if (path, words) in own]
    return {
        "name": name,
        "title": name.split("/", 1)[-1] if is_trial else name,
        "url": run_url(name),
        "state": run.state,
        "reason": shown(run.reason),
        "damage": [shown(text) for text in run.damage],
        "task": run.task,
        "preset": run.preset,
        "changes": changes[:_MOST_CHANGES],
        "more_changes": max(0, len(changes) - _MOST_CHANGES),
        "step": f"{run.step:,}",
        "last_step": None if run.last_step is None else f"{max(run.last_step, run.step):,}",
        "share": min(1.0, run.step / run.last_step) if run.last_step else None,
        "pace": pace,
        "best": None if run.best is None else best_of(run.best),
        "spark": spark_of(run.measured),
        "hours": hours_words(run.device_hours),
        "size": size_words(run.num_bytes),
        "age": _age(run, now),
    }


def short_words(value: object, before: object) -> str:
    """A change with numbers to four digits, and with no more of a place than its end."""
    short = [value_text(one) if isinstance(one, float) else one for one in (value, before)]
    return shown(" ".join(_shortened(word) for word in change_words(*short).split(" ")))


def best_of(best: Mapping[str, Any]) -> dict[str, str]:
    """The best measurement in words."""
    metric = metric_of(best["metric"])
    return {"value": value_text(best["value"]), "title": metric.title, "unit": metric.unit, "step": f"{best['step']:,}"}


def _changes(seen: Seen) -> Changes:
    return frozenset(_changes_in_order(seen))


def _changes_in_order(seen: Seen) -> list[tuple[str, str]]:
    return [(shown(path), short_words(*values)) for path, values in seen.summary.changes.items()]


def spark_of(points: Sequence[tuple[int, float]]) -> str:
    """The course of a measure as the points of a line in a box of 80 by 20; empty of fewer than two."""
    good = [(step, value) for step, value in points if is_number(value)]
    if len(good) < 2 or good[-1][0] <= good[0][0]:
        return ""
    low, high = min(value for _, value in good), max(value for _, value in good)
    first, length = good[0][0], good[-1][0] - good[0][0]
    height = (high - low) or 1.0
    return " ".join(
        f"{2 + 76 * (step - first) / length:.1f},{18 - 16 * (value - low) / height:.1f}" for step, value in good
    )


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _shortened(word: str) -> str:
    return word if len(word) <= _LONGEST_WORD else f"…{word[-_LONGEST_WORD:]}"


def _age(run: RunSummary, now: float) -> str:
    if run.state == "running":
        return "now"
    return f"{time_words(now - run.changed_at)} ago" if run.changed_at else "?"
