"""Show the runs under a storage path, here or in a browser; prune old checkpoints."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any

import tyro

from moco_ray.cli.command import run_command, say
from moco_ray.config.programs import spoken

log = logging.getLogger(__name__)
_HOST, _PORT = "127.0.0.1", 8080


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Show the runs under a storage path: state, steps, best measurement, what was changed of the preset, time, size.

    With --prune, show which checkpoints of theirs may go: all but the newest whole one, the best one and those of
    --run.keep-every-steps. Nothing is deleted without --yes, nothing of a run that is under way, and never a run.
    """

    storage_path: tyro.conf.Positional[str]
    """The folder of all runs (--run.storage-path), local or s3://; or that of one sweep, or of one run."""
    storage_options: str | None = None
    """Access to it: a JSON object of fsspec options or a file with one. None: the AWS environment."""
    run: tuple[str, ...] = ()
    """Only these runs; the name of a sweep stands for its trials. Empty: all."""
    json: str | None = None
    """Write the same to this file, for programs."""
    prune: bool = False
    """Show which checkpoints may go, and how much space that wins."""
    yes: bool = False
    """With --prune: delete them."""
    serve: bool = False
    """Show the runs as a page in a browser instead: a table that stays up to date, and curves of several on top of each other."""
    port: int | None = None
    """With --serve: where, 8080 by default; 0: any that is free."""
    host: str | None = None
    """With --serve: the address to listen at, 127.0.0.1 by default, which only this machine reaches. On any other one, such as
    0.0.0.0, whoever wants to see the page needs the token of MOCO_RAY_TOKEN, or the one that is printed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and show the runs; returns the exit code, which is that of jobs/pretrain.py."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parsed = tyro.cli(Arguments, args=given, prog=spoken("runs"), config=(tyro.conf.FlagCreatePairsOff,))
    return run_command(
        lambda: _serve(parsed) if parsed.serve else _runs(parsed),
        stopped="stopped; what was deleted is gone, and the same command deletes the rest",
    )


def _runs(given: Arguments) -> None:
    if given.yes and not given.prune:
        raise ValueError("--yes deletes what --prune shows; give both, or drop --yes")
    if given.port is not None or given.host is not None:
        raise ValueError(f"--{'port' if given.port is not None else 'host'} is where --serve listens; give both")
    # Imported here, because they take a while.
    from moco_ray.cli.transfer import write_json
    from moco_ray.run_folder.found import find_runs
    from moco_ray.storage.checks import check_access
    from moco_ray.storage.storage import Storage, resolve_storage_options
    from moco_ray.worker.console import said_by

    with said_by(say):
        uri = given.storage_path
        options = resolve_storage_options(uri, given.storage_options)
        check_access(uri, options)
        with _status(f"listing {uri}"):
            found = find_runs(Storage.open(uri, options), given.run)
        rows = _prune(found, deletes=given.yes) if given.prune else _show(found, uri)
        if given.json is not None:
            write_json(given.json, (json.dumps(rows, indent=1) + "\n").encode(), given.storage_options)
        if failed := [row["name"] for row in rows if row.get("has_failed")]:
            raise OSError(f"not pruned, as said above: {', '.join(failed)}")


def _serve(given: Arguments) -> None:
    if given.prune or given.yes or given.json is not None:
        raise ValueError("--serve only shows runs, until it is stopped; drop --prune, --yes and --json")
    # Imported here, because they take a while.
    from moco_ray.storage.checks import check_access
    from moco_ray.storage.storage import Storage, resolve_storage_options
    from moco_ray.web.server import access_of, listen, serve
    from moco_ray.web.watch import Watch
    from moco_ray.worker.console import said_by

    with said_by(say):
        host = given.host or _HOST
        access = access_of(host)
        uri = given.storage_path
        options = resolve_storage_options(uri, given.storage_options)
        check_access(uri, options)
        watch = Watch(Storage.open(uri, options, is_quick=True), given.run)
        with listen(host, _PORT if given.port is None else given.port) as sock:
            with _status(f"looking at the runs in {uri}"):
                watch.latest = watch.look()
            serve(watch, sock, access, options, say)


def _status(what: str) -> AbstractContextManager[object]:
    """Says on a terminal what is waited for."""
    from rich.console import Console

    return Console(stderr=True).status(what)


def _show(found: Sequence[Any], uri: str) -> list[dict[str, Any]]:
    from rich.console import Console

    from moco_ray.cli.runs_table import print_runs
    from moco_ray.run_folder.summary import summaries

    with _status(f"reading {len(found):,} runs"):
        runs = summaries(found)
    if not runs:
        say(f"{uri} holds no runs")
    else:
        print_runs(runs, Console(), time.time())
    return [_row(run) for run in runs]


def _row(run: Any) -> dict[str, Any]:
    changes = {path: {"value": value, "preset": before} for path, (value, before) in run.changes.items()}
    return {**asdict(run), "changes": changes}


def _prune(found: Sequence[Any], *, deletes: bool) -> list[dict[str, Any]]:
    from moco_ray.report.words import size_words
    from moco_ray.run_folder.found import in_threads
    from moco_ray.run_folder.prune import Pruning, preview, prune

    prunings: list[Pruning] = []
    for run, expected in zip(found, in_threads(preview, found), strict=True):
        pruning = expected
        if deletes and expected.delete:
            try:
                pruning = prune(run)
            except (ValueError, OSError) as error:
                pruning = replace(expected, delete=[], num_bytes=0, problem=str(error), has_failed=True)
        prunings.append(pruning)
        if pruning.delete or pruning.problem:
            say(_words(pruning, deletes=deletes))
    what = _number(sum(len(one.delete) for one in prunings), "checkpoint")
    what += f" of {_number(sum(bool(one.delete) for one in prunings), 'run')}"
    what += f", {size_words(sum(one.num_bytes for one in prunings))}"
    is_asked = not deletes and any(one.delete for one in prunings)
    say(f"{'deleted' if deletes else 'would delete'}: {what}{'; --yes does it' if is_asked else ''}")
    return [asdict(pruning) for pruning in prunings]


def _words(pruning: Any, *, deletes: bool) -> str:
    from moco_ray.report.words import size_words

    if pruning.has_failed:
        return f"{pruning.name}: not all that was to go is known to be gone: {pruning.problem}"
    if pruning.problem:
        return f"{pruning.name}: nothing is deleted: {pruning.problem}"
    done = "deleted" if deletes else "would delete"
    gone, stay = (", ".join(f"{step:,}" for step in steps) for steps in (pruning.delete, pruning.keep))
    return f"{pruning.name}: {done} checkpoints {gone} ({size_words(pruning.num_bytes)}); {stay} stay"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
