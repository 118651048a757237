"""The terminal of a run: lines as they are said, and below them one live line of its progress."""

from __future__ import annotations

import re
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_PROGRESS = re.compile(r"(?P<what>step |measuring .*: )(?P<done>[\d,]+)(?:/| of )(?P<all>[\d,]+)\b.*")
_WIDEST_BAR, _NARROWEST_BAR = 24, 4


class Screen:
    """Prints lines. On a terminal those of progress replace each other; elsewhere they are lines like all others.

    It knows them by their text, since those of Ray's workers come as text.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live: Live | None = None
        self._step: tuple[str, float] | None = None
        self._shown = ("", 0.0)
        self._since_s = time.monotonic()

    def __enter__(self) -> Screen:
        """Begin; the live line appears with the first progress."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, line: str) -> None:
        """Say a line."""
        if not self._is_live:
            print(line, flush=True)
            return
        found = _PROGRESS.fullmatch(line)
        if found is None:
            # Neither wrapped nor coloured: a path stays whole for whoever copies it.
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            self._shown = self._step or self._shown  # what was measured has been said
            return
        done, total = (int(found[name].replace(",", "")) for name in ("done", "all"))
        self._shown = (line, done / max(total, 1))
        if found["what"] == "step ":
            if self._step is None:  # the first loss stays
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            self._step = self._shown
        if self._live is None:
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=2, transient=True)
            self._live.start()

    def _render(self) -> Table:
        seconds = int(time.monotonic() - self._since_s)
        clock = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        line, share = self._shown
        text = line.replace(" · ", "  ")
        room = self._console.width - len(text) - len(clock) - 3
        grid = Table.grid(padding=(0, 1, 0, 0))
        cells: list[ProgressBar | Text] = [Text(text, no_wrap=True, overflow="ellipsis"), Text(clock, style="dim")]
        grid.add_column(width=self._console.width - len(clock) - 2 if room < _NARROWEST_BAR else None, no_wrap=True)
        grid.add_column(no_wrap=True)
        if room >= _NARROWEST_BAR:
            grid.add_column()
            width = min(room, _WIDEST_BAR)
            cells.insert(0, ProgressBar(total=1.0, completed=share, width=width))
        grid.add_row(*cells)
        return grid
