"""The process of one tracker: it reads points from its standard input, and says on its output how it goes.

Whatever the tracker's library prints, waits for, leaves to be done at the end or breaks stays in here. A line each way is
one JSON object. In: the card, then {"points": [...]}, then {"close": whether the run is done}. Out: {"opened": where,
"newest": step}, {"sent": number of points}, {"trouble": why}, {"back": true}, {"fatal": why},
{"closed": true}. An input that ends before "closed" means that rank 0 is dead: its successor sends what is missing, so this
process ends, at once or after a few seconds.
"""

from __future__ import annotations

import json
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TextIO

from moco_ray.storage.uris import without_secrets
from moco_ray.worker.trackers.card import Card, Point, is_evaluation

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_ANSWER_S = 15.0
_LEAVE_S = 3.0
_NICENESS = 10
_MOST_POINTS = 500  # at once
_SECRET_VARIABLE = re.compile("(TOKEN|KEY|PASSWORD|SECRET)$")
_SHORTEST_SECRET = 6


class Tracked(Protocol):
    """A run in a tracker."""

    def open(self) -> str:
        """Find or make the run; returns where to look at it."""
        ...

    def look(self) -> None:
        """Look what is there, after a request that may have been met."""
        ...

    def newest(self) -> int:
        """The newest step of training that is there; -1 for none. Evaluations may come late: all of them are sent."""
        ...

    def send(self, points: list[Point]) -> None:
        """Add points, but for what is there already."""
        ...

    def finish(self, *, is_done: bool) -> None:
        """Say how the run ended, and wait until all is sent."""
        ...


def make_tracked(name: str, card: Card) -> Tracked:
    """The run in the tracker of that name."""
    if name == "mlflow":
        from moco_ray.worker.trackers.mlflow_run import MlflowRun

        return MlflowRun(card)
    if name == "trackio":
        from moco_ray.worker.trackers.trackio_run import TrackioRun

        return TrackioRun(card)
    from moco_ray.worker.trackers.wandb_run import WandbRun

    return WandbRun(card)


class Session:
    """Sends what comes, and tries again for as long as that fails."""

    def __init__(self, run: Tracked, tell: Callable[[dict[str, Any]], None]) -> None:
        self._run, self._tell = run, tell
        self._commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._is_open = False
        self._in_trouble = False
        self._hurry = threading.Event()
        self._since_s: float | None = None  # of the request that has no answer yet
        threading.Thread(target=self._watch, daemon=True).start()

    def read(self, lines: TextIO) -> None:
        """Take commands until they end."""
        is_closing = False
        for line in lines:
            command = json.loads(line)
            if "close" in command:
                is_closing = True
                self._hurry.set()
            self._commands.put(command)
        if not is_closing:
            self._leave()
        _leave_later()  # rank 0 has died while it waited

    def work(self) -> None:
        """Do what the commands say."""
        self._insist(self._open)
        while True:
            command = self._commands.get()
            if "close" in command:
                self._insist(partial(self._run.finish, is_done=bool(command["close"])))
                self._tell({"closed": True})
                return
            points = command["points"]
            for start in range(0, len(points), _MOST_POINTS):
                some = points[start : start + _MOST_POINTS]
                self._insist(partial(self._send, some))
                self._tell({"sent": len(some)})

    def _open(self) -> None:
        where = self._run.open()
        self._is_open = True
        self._tell({"opened": where, "newest": self._run.newest()})

    def _send(self, points: list[Point]) -> None:
        if self._in_trouble:
            self._run.look()
        # In order: what is below the newest is taken for what was sent.
        self._run.send(sorted(points, key=lambda point: (point["step"], is_evaluation(point))))

    def _insist(self, work: Callable[[], None]) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            self._since_s = time.monotonic()
            try:
                work()
            except Exception as error:
                self._since_s = None
                self._note_trouble(_words(error))
                if self._hurry.wait(pause):
                    time.sleep(_FIRST_PAUSE_S)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                self._since_s = None
                if self._in_trouble:
                    self._in_trouble = False
                    self._tell({"back": True})
                return

    def _note_trouble(self, why: str) -> None:
        if not self._in_trouble:
            self._in_trouble = True
            self._tell({"trouble": why})

    def _watch(self) -> None:
        while True:
            time.sleep(1.0)
            since = self._since_s
            if since is not None and time.monotonic() - since > _ANSWER_S:
                self._note_trouble(f"no answer within {_ANSWER_S:.0f} s")

    def _leave(self) -> None:
        _leave_later()
        with suppress(BaseException):
            if self._is_open and not self._in_trouble:
                self._run.finish(is_done=False)
        os._exit(1)


def _leave_later() -> None:
    threading.Timer(_LEAVE_S, os._exit, (1,)).start()


def main(name: str) -> None:
    """Follow the run that the first line tells of."""
    output = os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.nice(_NICENESS)

    def tell(message: dict[str, Any]) -> None:
        try:
            output.write(json.dumps(message) + "\n")
        except OSError:  # rank 0 is dead
            os._exit(1)

    try:
        run = make_tracked(name, Card(**json.loads(sys.stdin.readline())))
    except Exception as error:
        tell({"fatal": _words(error)})
        os._exit(1)
    session = Session(run, tell)
    threading.Thread(target=session.read, args=(sys.stdin,), daemon=True).start()
    session.work()
    os._exit(0)  # without what the library would still wait for


def _words(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    keys = [value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)]
    for key in sorted(keys, key=len, reverse=True):
        if len(key) >= _SHORTEST_SECRET:
            text = text.replace(key, "…")
    text = " ".join(without_secrets(text).split())
    return text if len(text) < 300 else f"{text[:297]}..."


if __name__ == "__main__":
    main(sys.argv[1])
