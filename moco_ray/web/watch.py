"""All runs under a storage path, looked at again and again: what has not changed is not read again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from moco_ray.config.patience import USUAL_PATIENCE, Patience
from moco_ray.run_folder.found import FoundRun, find_runs, in_threads
from moco_ray.run_folder.names import CONFIG
from moco_ray.run_folder.summary import RunSummary, lease_of, step_done, summary_or_damage
from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import shown
from moco_ray.web.liveness import Liveness, clock

_OF_LEASES = "lease"  # files that change while nothing else does


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A run as it was seen last."""

    run: FoundRun
    """Its folder."""
    summary: RunSummary
    """What it is; its state is "unknown" as long as nobody knows whether it is alive."""
    images_per_s: float | None = None
    """Of a run that is alive."""
    seconds_left: float | None = None
    """At that pace."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All runs at one moment."""

    runs: dict[str, Seen] = field(default_factory=dict)
    """By their names as they are shown; the one that was written to last first."""
    at: float = 0.0
    """When, in seconds since 1970."""
    problem: str = ""
    """Why the runs could not be looked at since."""


class Watch:
    """Looks at the runs under a storage path when asked; one look at a time."""

    def __init__(self, root: Storage, only: Collection[str] = (), patience: Patience = USUAL_PATIENCE) -> None:
        """Look at nothing yet.

        Args:
            root: The storage path.
            only: Names of runs, or of sweeps; empty: all.
            patience: With leases.
        """
        self.root, self._only, self._patience = root, tuple(only), patience
        self.latest = Snapshot()
        self._lives: dict[str, Liveness] = {}
        self._kept: dict[str, tuple[object, RunSummary]] = {}
        self._batches: dict[str, tuple[object, int | None]] = {}
        self._lock = threading.Lock()

    def refresh(self) -> Snapshot:
        """Look again; a storage that does not answer is told of, and what was known before stays."""
        with self._lock:
            try:
                self.latest = self.look()
            except Exception as error:  # the page outlives whatever a storage does
                text = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
                self.latest = replace(self.latest, problem=text)
            return self.latest

    def look(self) -> Snapshot:
        """What is there now.

        Raises:
            ValueError: There is no such folder, or no run of a name.
            OSError: The storage does not answer.
        """
        found = find_runs(self.root, self._only)
        names = {run.name for run in found}
        self._lives = {name: life for name, life in self._lives.items() if name in names}
        self._kept = {name: kept for name, kept in self._kept.items() if name in names}
        self._batches = {name: batch for name, batch in self._batches.items() if name in names}
        for run in found:
            self._lives.setdefault(run.name, Liveness(patience=self._patience))
        changed = [run for run in found if not self._lives[run.name].knows(run)]
        for run, lease in zip(changed, in_threads(lease_of, changed), strict=True):
            self._lives[run.name].look(run, lease, clock())
        now = clock()
        lives = {run.name: self._lives[run.name].is_live(now) for run in found}
        keys = {run.name: _key(run, lives[run.name]) for run in found}
        stale = [run for run in found if self._kept.get(run.name, (None,))[0] != keys[run.name]]
        fresh = in_threads(lambda run: summary_or_damage(run, {}, is_live=bool(lives[run.name])), stale)
        for run, summary in zip(stale, fresh, strict=True):
            self._kept[run.name] = keys[run.name], summary
        seen = [self._seen(run, lives[run.name]) for run in found if not lives[run.name]]
        seen += in_threads(lambda run: self._seen(run, True), [run for run in found if lives[run.name]])
        seen.sort(key=lambda one: (-one.summary.changed_at, one.run.name))
        return Snapshot(runs={shown(one.run.name): one for one in seen}, at=time.time())

    def _seen(self, run: FoundRun, is_live: bool | None) -> Seen:
        life, summary = self._lives[run.name], self._kept[run.name][1]
        summary = replace(
            summary,
            step=max(summary.step, step_done(life.lease.get("last_step"))),
            num_bytes=run.num_bytes,
            changed_at=time.time() if is_live else run.changed_at,
        )
        if is_live is None:
            summary = replace(summary, state="unknown", reason="whether it is alive is known in half a minute")
        batch = self._batch_of(run) if is_live else None
        rate = None if batch is None else life.images_per_s(run, batch)
        if not rate or batch is None or summary.last_step is None:
            return Seen(run=run, summary=summary, images_per_s=rate)
        left = max(0, summary.last_step - summary.step) * batch / rate
        return Seen(run=run, summary=summary, images_per_s=rate, seconds_left=left)

    def _batch_of(self, run: FoundRun) -> int | None:
        """Images of a step, as the run's configuration says."""
        info = run.files.get(CONFIG)
        if self._batches.get(run.name, (None,))[0] != info:
            value = group_of(config_of(run), "optim").get("global_batch_size")
            self._batches[run.name] = info, value if isinstance(value, int) else None
        return self._batches[run.name][1] if run.name in self._batches else None


def config_of(run: FoundRun) -> dict[str, Any]:
    """The values of a run's config.json; empty if it cannot be read."""
    try:
        values = json.loads(run.read(CONFIG) or b"")
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def group_of(values: dict[str, Any], name: str) -> dict[str, Any]:
    """A group of fields of a configuration; empty if there is none."""
    fields = values.get(name)
    return fields if isinstance(fields, dict) else {}


def _key(run: FoundRun, is_live: bool | None) -> object:
    """What a summary depends on."""
    return {path: info for path, info in run.files.items() if not path.startswith(_OF_LEASES)}, run.record, is_live
