"""Runs as a table that is readable in 80 columns: a line of figures for each, and indented lines of words."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from moco_ray.config.changes import KNOWN_PRESETS
from moco_ray.report.words import change_words, hours_words, size_words, time_words
from moco_ray.run_folder.summary import RunSummary
from moco_ray.storage.uris import shown

_HEADER = ("run", "state", "steps", "time", "size", "age")
_NUM_WORDS = 2  # columns, before those of figures
_STYLES = {"running": "green", "ended": "bold", "stopped": "yellow", "failed": "red", "damaged": "red"}
_NARROWEST_NAME = 12
_GAP, _INDENT = 2, 4


def print_runs(runs: Sequence[RunSummary], console: Console, now: float) -> None:
    """Print runs, in this order.

    Args:
        runs: At least one.
        console: Where to.
        now: Seconds since 1970, for their ages.
    """
    rows = [_cells(run, now) for run in runs]
    widths = [max(len(row[i]) for row in [_HEADER, *rows]) for i in range(1, len(_HEADER))]
    room = console.width - sum(widths) - _GAP * len(widths)
    name = max(_NARROWEST_NAME, min(room, max(len(row[0]) for row in [_HEADER, *rows])))
    widths = [name, *widths]
    _print_line(console, _HEADER, widths, ["bold"] * len(_HEADER))
    for run, row in zip(runs, rows, strict=True):
        _print_line(console, row, widths, ["", _STYLES.get(run.state, ""), *[""] * (len(_HEADER) - _NUM_WORDS)])
        for text, style in _details(run):
            for part in Text(text, style=style).wrap(console, max(_NARROWEST_NAME, console.width - _INDENT)):
                part.rstrip()
                console.print(Text(" " * _INDENT) + part, soft_wrap=True)


def _print_line(console: Console, cells: Sequence[str], widths: Sequence[int], styles: Sequence[str]) -> None:
    """Words to the left, figures to the right; a name that is too long has a line of its own, whole."""
    if len(cells[0]) > widths[0]:
        console.print(Text(cells[0], style=styles[0]), soft_wrap=True)
        cells = ["", *cells[1:]]
    line = Text()
    for number, (cell, width, style) in enumerate(zip(cells, widths, styles, strict=True)):
        line.append(" " * _GAP if number else "")
        line.append(cell.ljust(width) if number < _NUM_WORDS else cell.rjust(width), style)
    console.print(line, soft_wrap=True)


def _cells(run: RunSummary, now: float) -> tuple[str, ...]:
    of = "?" if run.last_step is None else f"{max(run.last_step, run.step):,}"
    age = time_words(now - run.changed_at) if run.changed_at else "?"
    steps = "-" if run.state == "damaged" and not run.step else f"{run.step:,}/{of}"
    return shown(run.name), run.state, steps, hours_words(run.device_hours) or "-", size_words(run.num_bytes), age


def _details(run: RunSummary) -> list[tuple[str, str]]:
    """Lines of words with their styles."""
    lines = [(shown(text), "red") for text in [run.reason, *run.damage] if text]
    facts = []
    if run.best is not None:
        facts.append(f"best {run.best['metric'].removeprefix('eval/')} {run.best['value']:.4g} at {run.best['step']:,}")
    if run.checkpoint is not None:
        facts.append(f"checkpoint {run.checkpoint:,}")
    if facts:
        lines.append((" · ".join(facts), ""))
    if run.preset is not None:
        changes = [f"{path} {change_words(*values)}" for path, values in run.changes.items()]
        unchanged = "nothing changed" if run.preset in KNOWN_PRESETS else "which is not known here"
        text = f"{run.task}, preset {run.preset}: {', '.join(changes) or unchanged}"
        lines.append((shown(text), "dim"))
    return lines
