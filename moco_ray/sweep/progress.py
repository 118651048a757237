"""What a person sees while a sweep runs: a live table, or plain lines where there is no terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table

from moco_ray.sweep.records import Record, best_of
from moco_ray.sweep.space import Space
from moco_ray.worker.progress import duration

log = logging.getLogger(__name__)
_COLOURS = {"running": "cyan", "finished": "green", "stopped": "yellow", "failed": "red"}


class SweepProgress:
    """Shows the trials of a sweep as they change."""

    def __init__(self, space: Space, metric: str, max_images: int, *, num_trials: int = 0) -> None:
        self._space, self._metric, self._max_images = space, metric, max_images
        self._num_trials = num_trials
        self._done_before = 0
        self._records: dict[str, Record] = {}
        self._live: Live | None = None
        self._since_s = time.monotonic()

    @contextmanager
    def shown(self, console: Console | None) -> Iterator[None]:
        """Inside, a terminal shows a table that is kept up to date."""
        if console is None or not console.is_terminal:
            yield
            return
        with Live(console=console, get_renderable=self._table, refresh_per_second=2) as self._live:
            yield
        self._live = None

    def begin(self, records: list[Record]) -> None:
        """Show trials of a session before, and count the time from now on."""
        self._since_s = time.monotonic()
        self._records.update({record.name: record for record in records})
        self._done_before = self._images_done()

    def tell(self, record: Record) -> None:
        """Show what has changed."""
        self._records[record.name] = record
        if self._live is None:
            log.info(self._line(record))

    def _line(self, record: Record) -> str:
        ended = {"running": "starts" if not record.points else "", "stopped": "stopped early", "failed": "failed"}
        state = ended.get(record.state, record.state)
        shown = [record.name, shorten(record.parameters)]
        if record.value is not None:
            shown.append(f"{record.images:,} images, {self._metric} {record.value:.2f}")
        shown += [state] if state else []
        shown += [record.reason] if record.reason else []
        shown += [left] if (left := self._left()) else []
        return " · ".join(shown)

    def _images_done(self) -> int:
        """Images of all trials; one that has ended needs no more, whatever it saw."""
        return sum(self._max_images if record.has_ended else record.images for record in self._records.values())

    def _left(self) -> str:
        """The time that the others will take at the speed of this session; empty where that is not known yet."""
        done, elapsed_s = self._images_done(), time.monotonic() - self._since_s
        left = self._num_trials * self._max_images - done
        if left <= 0 or done <= self._done_before:
            return ""
        return f"about {duration(elapsed_s * left / (done - self._done_before))} left"

    def _table(self) -> Table:
        records = sorted(self._records.values(), key=lambda record: (record.generation, record.index))
        best = best_of(records)
        counts = ", ".join(
            f"{sum(record.state == state for record in records)} {state}"
            for state in _COLOURS
            if any(record.state == state for record in records)
        )
        title = f"{counts} · {time.monotonic() - self._since_s:,.0f} s" + (
            f" · {left}" if (left := self._left()) else ""
        )
        table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
        table.add_column("trial", no_wrap=True)
        for dimension in self._space:
            table.add_column(dimension.path.split(".")[1], justify="right")
        for name in ("state", "images", self._metric.split("/")[-1]):
            table.add_column(name, justify="left" if name == "state" else "right")
        for record in records[-40:]:
            table.add_row(
                record.name,
                *(number(record.parameters.get(dimension.path)) for dimension in self._space),
                f"[{_COLOURS[record.state]}]{record.state}",
                f"{100 * record.images / self._max_images:.0f} %",
                "" if record.value is None else f"{record.value:.2f}{' *' if record is best else ''}",
            )
        return table


def number(value: Any) -> str:
    """A parameter for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shorten(parameters: dict[str, Any]) -> str:
    """Parameters in one line."""
    return " ".join(f"{path.split('.')[1]} {number(value)}" for path, value in parameters.items())
