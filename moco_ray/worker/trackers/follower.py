"""Follow a run in a tracker, from the record of the run: what is committed there is sent, once, however often it is cut off."""

from __future__ import annotations

import json
import logging
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from moco_ray.run_folder.metrics import Line, lines_of_steps
from moco_ray.run_folder.names import TRACKING
from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import without_secrets
from moco_ray.tasks.job import Job
from moco_ray.tasks.tracker import TrackerAccess
from moco_ray.worker.follower import Follower
from moco_ray.worker.trackers.card import Point, card_of, point_of

log = logging.getLogger(__name__)
_LAST_WAIT_S, _SHORT_WAIT_S = 30.0, 5.0
_TELL_EVERY_S = 10.0
_MAKING_KEY = threading.Lock()
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0

Message = dict[str, Any]


class TrackerFollower(Follower):
    """Hands what is committed to the process of a tracker. A thread does all of it: training never waits."""

    def __init__(self, access: TrackerAccess, job: Job, run: Storage, step: int) -> None:
        """Begin to follow.

        Args:
            access: The tracker.
            job: The run.
            run: Its folder.
            step: Steps that its record holds already.
        """
        self._access, self._job, self._storage = access, job, run
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._committed = step
        self._evaluations: Sequence[Line] = []
        self._evaluations_sent: set[int] = set()
        self._num_given, self._num_sent, self._most_sent = 0, 0, 0
        self._child: subprocess.Popen[str] | None = None
        self._is_open, self._is_over = False, threading.Event()
        self._closing: bool | None = None
        self._in_trouble, self._is_cut_off, self._has_warned = False, False, False
        threading.Thread(target=self._follow, name=access.name, daemon=True).start()

    def commit(self, lines: Sequence[Line], evaluations: Sequence[Line]) -> None:
        """Have them sent."""
        if not self._is_over.is_set():
            self._inbox.put({"lines": list(lines), "evaluations": list(evaluations)})

    def close(self, *, is_done: bool) -> None:
        """Wait until all is sent, or nothing more for a while; of a run that is not done, whoever goes on with it sends the rest."""
        self._inbox.put({"close": is_done})
        wait_s = _SHORT_WAIT_S if self._is_open and not self._in_trouble else 0.0
        if not (self._wait_while_sending() if is_done else self._is_over.wait(wait_s)):
            self._is_cut_off = True
            if is_done:
                left = self._num_given - self._num_sent
                what = f"{left:,} points" if self._is_open and left else "all of the run's points"
                log.warning(
                    f"{self._access.title} did not take {what}, and nothing for {_LAST_WAIT_S:.0f} s; they are in metrics.jsonl and eval.jsonl, "
                    "and the same command sends them when it answers again"
                )
        self._kill()

    def _wait_while_sending(self) -> bool:
        """Wait for as long as points are taken; returns whether all of them are."""
        most, moved_s = self._most_sent, time.monotonic()
        tell_s = moved_s + _TELL_EVERY_S
        while not self._is_over.wait(min(_LAST_WAIT_S / 10, 1.0)):
            now = time.monotonic()
            if self._most_sent > most:  # a process that dies again and again does not count
                most, moved_s = self._most_sent, now
            if now - moved_s > _LAST_WAIT_S:
                return False
            if now > tell_s and self._is_open:
                tell_s = now + _TELL_EVERY_S
                log.info(f"{self._access.title} has taken {self._num_sent:,} of {self._num_given:,} points")
        return True

    def _follow(self) -> None:
        """Keep a process of the tracker until the run is closed."""
        pause = _FIRST_PAUSE_S
        while not self._is_over.is_set() and not self._is_cut_off:
            began_s = time.monotonic()
            try:
                self._session()
            except Exception as error:
                if not self._is_cut_off and not self._has_warned:
                    self._has_warned = True
                    why = without_secrets(f"{error}", [self._job.run_options])
                    log.warning(
                        f"{self._access.title} could not be told of this run ({why}); training goes on, and it is tried again"
                    )
            pause = (
                _FIRST_PAUSE_S if time.monotonic() - began_s > _LONGEST_PAUSE_S else min(2 * pause, _LONGEST_PAUSE_S)
            )
            if self._is_over.wait(pause if self._closing is None else _FIRST_PAUSE_S):
                return

    def _session(self) -> None:
        """Start the process, and pass on what comes until it ends."""
        card = card_of(self._job, key_of(self._storage))
        self._is_open, self._in_trouble, self._evaluations_sent = False, False, set()
        self._num_given = self._num_sent = 0
        with tempfile.TemporaryDirectory(prefix="moco_ray_", ignore_cleanup_errors=True) as scratch:
            child = self._child = self._start(scratch)
            threading.Thread(target=self._listen, args=(child,), daemon=True).start()
            try:
                if self._is_cut_off:  # since the start of this process, which nobody has seen then
                    return
                self._tell(asdict(card))
                while True:
                    message = self._inbox.get()
                    if message.get("ended") == child.pid:
                        raise ChildProcessError(f"its process ended with code {child.wait()}")
                    if self._take(message):
                        self._is_over.set()
                        return
            finally:
                self._kill()

    def _take(self, message: Message) -> bool:
        """Do what a message asks for; returns whether it was the last."""
        if "lines" in message:
            lines = [line for line in message["lines"] if line["step"] >= self._committed]
            if lines:
                self._committed = lines[-1]["step"] + 1
            self._evaluations = message["evaluations"]
            if self._is_open:
                self._give(lines)
        elif "close" in message:
            self._closing = message["close"]
            if self._is_open:
                self._tell({"close": self._closing})
        elif "opened" in message:
            self._opened(message)
        elif "sent" in message:
            self._num_sent += message["sent"]
            self._most_sent = max(self._most_sent, self._num_sent)
        elif "trouble" in message:
            self._in_trouble = True
            log.warning(
                f"{self._access.title} cannot be reached from {socket.gethostname()} ({message['trouble']}); training goes on, and "
                "what it misses is sent when it answers again"
            )
        elif "back" in message:
            self._in_trouble = False
            log.info(f"{self._access.title} can be reached again; it gets what it has missed")
        elif "fatal" in message:
            log.warning(
                f"{self._access.title} does not follow this run on {socket.gethostname()} ({message['fatal']}); training goes on, and "
                "the same command sends the run once that is mended"
            )
            return True
        return "closed" in message

    def _opened(self, message: Message) -> None:
        """Send what the record holds beyond what is there."""
        self._has_warned = False
        log.info(f"{self._access.title} follows this run: {message['opened']}")
        first = message["newest"] + 1
        lines = lines_of_steps(self._storage, first, self._committed) if first < self._committed else []
        self._is_open = True
        self._give(lines)
        if self._closing is not None:
            self._tell({"close": self._closing})

    def _give(self, lines: Sequence[Line]) -> None:
        new = [line for line in self._evaluations if line["step"] not in self._evaluations_sent]
        self._evaluations_sent |= {line["step"] for line in new}
        points: list[Point] = [point for line in [*lines, *new] if (point := point_of(line)) is not None]
        if points:
            self._num_given += len(points)
            self._tell({"points": points})

    def _start(self, scratch: str) -> subprocess.Popen[str]:
        own = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), "WANDB_CACHE_DIR": scratch}
        own |= {"WANDB_DATA_DIR": scratch, **({} if "WANDB_DIR" in os.environ else {"WANDB_DIR": scratch})}
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "moco_ray.worker.trackers.process", self._access.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
            env={**os.environ, **own, **self._access.environment},
            start_new_session=True,  # so that all of it can be ended, and a terminal's Ctrl-C does not reach it
        )

    def _listen(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        with suppress(ValueError, OSError):
            for line in child.stdout:
                self._inbox.put(json.loads(line))
        self._inbox.put({"ended": child.pid})

    def _tell(self, message: Message) -> None:
        assert self._child is not None and self._child.stdin is not None
        self._child.stdin.write(json.dumps(message) + "\n")

    def _kill(self) -> None:
        """End the process and all it has started."""
        child = self._child
        if child is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def key_of(run: Storage) -> str:
    """What trackers tell the run by; made when the first one asks. The caller holds the run's lease.

    Raises:
        OSError: The run's folder does not answer.
    """
    path = run.join(TRACKING)
    with _MAKING_KEY:
        if not run.exists(path):
            run.write_bytes(path, json.dumps({"key": secrets.token_hex(8)}).encode())
        return str(json.loads(run.read_bytes(path))["key"])
