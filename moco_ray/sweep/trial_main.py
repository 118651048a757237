"""The process of one trial: an ordinary run, told by its parent what to do, and gone when its parent is.

A process of its own, so that stopping a trial is what stopping any run is (SIGTERM: it gives its lease back and its Ray
Train workers end with it), and a trial that crashes takes nothing else along.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from moco_ray.config import Config, from_json
from moco_ray.driver.run import train
from moco_ray.driver.signals import interrupt_on
from moco_ray.run_folder.begin import begin_run, is_run, stored_images
from moco_ray.run_folder.lease import RunInUse
from moco_ray.storage.storage import Storage, resolve_storage_options
from moco_ray.tasks.failure import RunFailed
from moco_ray.tasks.known import task_of

_PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a trial's process is to do."""

    config: str
    """The run's configuration, as JSON."""
    sweep_uri: str
    """The sweep's folder."""
    data_options: str | None
    """Access to the images: a file of options whose keys its writer renews, or JSON."""
    run_options: str | None
    """Access to the sweep's folder, likewise."""
    folder: str
    """Working directory of the driver, which relative paths are relative to."""
    typed: str
    """How the sweep was started, as in `sys.argv`: commands for the user are said alike."""


def main() -> int:
    """Read a task from the first line of standard input, and do it; the exit code is that of jobs/pretrain.py.

    What went wrong goes to the file that the only argument names.
    """
    interrupt_on(signal.SIGTERM, signal.SIGINT)
    task = Task(**json.loads(sys.stdin.readline()))
    sys.argv[0] = task.typed
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    if os.path.isdir(task.folder):
        os.chdir(task.folder)
    try:
        with _options(task) as config:
            _begin(task, config)
            train(task_of(config), config, say=_say)
    except (ValueError, RunFailed, OSError) as error:
        Path(sys.argv[1]).write_text(str(error))
        _say(f"{type(error).__name__}: {error}")
        is_users = isinstance(error, ValueError) and not isinstance(error, RunInUse)  # by a process before this one
        return 2 if is_users else 1
    except KeyboardInterrupt:
        _say("stopped")
        return 143
    return 0


def _begin(task: Task, config: Config) -> None:
    """Give the run its folder, with the images that the sweep has listed, if it has none yet."""
    options = resolve_storage_options(config.run.storage_path, config.run.storage_options)
    sweep, run = (Storage.open(uri, options) for uri in (task.sweep_uri, f"{task.sweep_uri}/{config.run.name}"))
    if is_run(run):
        return
    images = stored_images(sweep)
    begin_run(run, task_of(config).resolve(config, len(images.train.train_rows())), images)


@contextmanager
def _options(task: Task) -> Iterator[Config]:
    """The task's configuration with its storage options, in files of its own that are gone afterwards."""
    config = from_json(task.config)
    with tempfile.TemporaryDirectory(prefix="moco_ray_") as folder:  # readable by the owner alone
        names: dict[str, str | None] = {}
        for name, text in (("data", task.data_options), ("run", task.run_options)):
            names[name] = text
            if text is not None and text.startswith("{"):
                path = Path(folder) / name
                path.write_text(text)
                names[name] = str(path)
        yield replace(
            config,
            data=replace(config.data, storage_options=names["data"]),
            run=replace(config.run, storage_options=names["run"]),
        )


def task_line(task: Task) -> bytes:
    """A task as this process reads it."""
    return json.dumps(asdict(task)).encode() + b"\n"


def _end_with_parent() -> None:
    """Wait for the parent to close its end of the pipe, which it does when it dies, too."""
    sys.stdin.read()
    _thread.interrupt_main()
    threading.Event().wait(_PATIENCE_S)
    os._exit(1)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
