"""The runs that lie under a storage path: each a folder there, or a trial's in the folder of a sweep."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from moco_ray.config.resembling import most_like
from moco_ray.run_folder.checkpoint_files import MARKER, STATE, checkpoint_name, step_of
from moco_ray.run_folder.names import CONFIG, SWEEP, record_of
from moco_ray.storage.local import FileInfo
from moco_ray.storage.storage import Missing, Storage
from moco_ray.storage.uris import S3

_AT_ONCE = 32
_HIDDEN = "."
_NO_SIGN_OF_LIFE = "lease"  # files that come and go with whoever holds the run, or looks at it
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """The folder of a run, listed once."""

    name: str
    """Of the run; SWEEP/TRIAL of a trial."""
    storage: Storage
    """Its folder."""
    sweep: Storage | None
    """The folder of its sweep."""
    files: dict[str, FileInfo]
    """What is in it, by paths in it."""
    record: FileInfo | None = None
    """The file in which its sweep keeps a record of it."""

    @property
    def num_bytes(self) -> int:
        """Of all its files."""
        return sum(size for size, _ in self.files.values())

    @property
    def changed_at(self) -> float:
        """When something was written last, in seconds since 1970; 0 if that is unknown."""
        lasting = [when for path, (_, when) in self.files.items() if not path.startswith(_NO_SIGN_OF_LIFE)]
        return max(lasting, default=0.0)

    def checkpoints(self) -> dict[int, int]:
        """Bytes of its checkpoints' folders, by steps, ascending; whole or not."""
        found: dict[int, int] = {}
        for path, (size, _) in self.files.items():
            step = _checkpoint_of(path)
            if step is not None:
                found[step] = found.get(step, 0) + size
        return dict(sorted(found.items()))

    def read(self, name: str) -> bytes | None:
        """A file of its; None if it is not there, or not any more."""
        if name not in self.files:
            return None
        try:
            return self.storage.read_bytes(self.storage.join(*name.split("/")))
        except Missing:
            return None

    def whole_checkpoint(self) -> tuple[int, dict[str, Any]] | None:
        """Steps and marker of the newest checkpoint that is whole as far as its sizes tell."""
        for step in reversed(self.checkpoints()):
            folder = checkpoint_name(step)
            try:
                marker = json.loads(self.read(f"{folder}/{MARKER}") or b"")
                if marker["files"][STATE]["bytes"] == self.files[f"{folder}/{STATE}"][0]:
                    return step, marker
            except (ValueError, KeyError, TypeError):
                continue
        return None


def find_runs(root: Storage, only: Collection[str] = ()) -> list[FoundRun]:
    """The runs under a storage path, or the one whose folder it is; every folder is listed once, a bucket all at once.

    Args:
        root: The storage path.
        only: Names of runs, or of sweeps for all of their trials; empty: all.

    Raises:
        ValueError: There is no such folder, or no run of a name.
    """
    entries = root.list(root.root)
    if not entries and not root.exists(root.root):
        raise ValueError(f"{root.uri(root.root)}: there is no such folder; give the run.storage-path of runs")
    if any(name == CONFIG for name, _, is_dir in entries if not is_dir):
        run = FoundRun(name=_last(root.root), storage=root, sweep=None, files=root.files(root.root))
        if others := [one for one in only if not _is_meant(run, one)]:
            raise ValueError(
                f"--run {others[0]}: {root.uri(root.root)} is the folder of one run, {run.name}; drop the flag"
            )
        return [run]
    names = sorted(name for name, _, is_dir in entries if is_dir and not name.startswith(_HIDDEN))
    if any(name == SWEEP for name, _, is_dir in entries if not is_dir):
        found = _trials(root, root.files(root.root), "")
    else:
        found = _runs_under(root, [name for name in names if not only or name in {_first(one) for one in only}], only)
    for one in only:
        if not any(_is_meant(run, one) for run in found):
            close = most_like(one, [run.name for run in found] or names)
            hint = f"; did you mean {close}?" if close else ""
            raise ValueError(f"--run {one}: there is no such run in {root.uri(root.root)}{hint}")
    return [run for run in found if not only or any(_is_meant(run, one) for one in only)]


def in_threads(work: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Do something with each of many, many at once: most of the time goes by with waiting for storage."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(work, items))


def _runs_under(root: Storage, names: Collection[str], only: Collection[str]) -> list[FoundRun]:
    """The runs in some of the folders of a storage path."""
    at_once = _by_folder(root.files(root.root)) if root.protocol in S3 and not only else None

    def look(name: str) -> list[FoundRun]:
        folder = replace(root, root=root.join(name))
        return _runs_in(name, folder, root.files(folder.root) if at_once is None else at_once.get(name, {}))

    return [run for runs in in_threads(look, names) for run in runs]


def _runs_in(name: str, folder: Storage, files: dict[str, FileInfo]) -> list[FoundRun]:
    """The run whose folder this is, or those of the sweep whose folder it is."""
    if SWEEP in files:
        return _trials(folder, files, f"{name}/")
    return [FoundRun(name=name, storage=folder, sweep=None, files=files)] if _is_run(files) else []


def _trials(sweep: Storage, files: dict[str, FileInfo], prefix: str) -> list[FoundRun]:
    """The runs of a sweep, from all files of its folder."""
    return [
        FoundRun(
            name=f"{prefix}{trial}",
            storage=replace(sweep, root=sweep.join(trial)),
            sweep=sweep,
            files=own,
            record=files.get(record_of(trial)),
        )
        for trial, own in sorted(_by_folder(files).items())
        if _is_run(own)
    ]


def _by_folder(files: dict[str, FileInfo]) -> dict[str, dict[str, FileInfo]]:
    below: dict[str, dict[str, FileInfo]] = {}
    for path, info in files.items():
        folder, slash, rest = path.partition("/")
        if slash and not folder.startswith(_HIDDEN):
            below.setdefault(folder, {})[rest] = info
    return below


def _is_run(files: dict[str, FileInfo]) -> bool:
    """Whether a folder holds a run, or what is left of one."""
    return CONFIG in files or any(_checkpoint_of(path) is not None for path in files)


def _checkpoint_of(path: str) -> int | None:
    folder, slash, _ = path.partition("/")
    return step_of(folder) if slash else None


def _is_meant(run: FoundRun, name: str) -> bool:
    return name.rstrip("/") in (run.name, _first(run.name))


def _first(name: str) -> str:
    return name.split("/", 1)[0]


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]
