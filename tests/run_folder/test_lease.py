"""One driver at a time for a run: real processes on one folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from moco_ray.config.patience import Patience
from moco_ray.driver.run import pretrain
from moco_ray.run_folder import lease
from moco_ray.run_folder.checkpoint import CheckpointStore
from moco_ray.run_folder.lease import LeaseLost, check_lease
from moco_ray.storage.storage import Storage, StorageOptions
from tests.runs import losses, tiny_config

HASTE = Patience(lease_renewal=0.1, lease_watch=2.0, lease_look=0.05)
hold_run = partial(lease.hold_run, patience=HASTE)
# Holds the run in argv[1], says so, and goes on until somebody closes its standard input.
HOLD = f"""
import sys
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.run_folder import lease
from moco_ray.config.patience import Patience
with lease.hold_run(Storage.open(sys.argv[1], StorageOptions({{}})), lambda: (7, 1.5), {HASTE}):
    print("held", flush=True)
    sys.stdin.read()
"""
# Tries to hold each of the runs in argv[1], from the same moments on as others, on storage that answers after a while;
# says when it held which.
COMPETE = f"""
import random, sys, time
from fsspec.implementations.local import LocalFileSystem
from moco_ray.storage import local as local_files
from moco_ray.storage.storage import Storage
from moco_ray.run_folder import lease
from moco_ray.config.patience import Patience

def after_a_while(work):
    def slow(*arguments, **options):
        time.sleep(random.uniform(0, 0.05))
        answer = work(*arguments, **options)
        time.sleep(random.uniform(0, 0.05))
        return answer
    return slow

class Slow(LocalFileSystem):
    ls, info, rm_file = (after_a_while(getattr(LocalFileSystem, name)) for name in ("ls", "info", "rm_file"))
    cat_file = after_a_while(LocalFileSystem.cat_file)
    pipe_file = after_a_while(lambda self, path, data: local_files.write_file(path, data))

for number in range(int(sys.argv[2])):
    run = Storage(Slow(), "slow", f"{{sys.argv[1]}}/{{number}}")
    time.sleep(max(0.0, float(sys.argv[3]) + 0.8 * number - time.monotonic()))
    try:
        with lease.hold_run(run, lambda: None, {HASTE}):
            start = time.monotonic()
            time.sleep(0.3)
            print(number, start, time.monotonic(), flush=True)
    except ValueError:
        pass
"""


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path), StorageOptions({}))


def _no_step() -> None:
    return None


@contextmanager
def _holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        child.kill()
        child.wait()


def _elsewhere(folder: Path, renewed_at: float) -> dict[str, Any]:
    """Write the lease of a driver on another machine."""
    content = {
        "owner": "other",
        "renewed_at": renewed_at,
        "host": "elsewhere",
        "boot": "b",
        "pid": 5,
        "pid_started": "1",
    }
    _put(folder, content)
    return content


def _put(folder: Path, content: dict[str, Any]) -> None:
    (folder / "scratch").write_text(json.dumps(content))
    os.replace(folder / "scratch", folder / "lease.json")


def _leases(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith("lease")]


def test_a_run_that_is_held_is_refused_with_who_holds_it(run: Storage, tmp_path: Path) -> None:
    refused = pytest.raises(ValueError, match=r"in use by process \d+ on .*, which lives")
    with _holder(tmp_path) as child, refused as error, hold_run(run, _no_step):
        pass
    assert f"process {child.pid} on" in str(error.value)


def test_a_released_lease_leaves_nothing_behind(run: Storage, tmp_path: Path) -> None:
    for _ in range(2):
        with hold_run(run, lambda: (3, 1.0)) as held:
            assert _leases(tmp_path) == ["lease.json"]
            assert held.before is None or held.before == (3, 1.0)
        assert _leases(tmp_path) == []


def test_a_holder_that_failed_leaves_its_last_step_and_no_owner(run: Storage, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"), hold_run(run, lambda: (3, 1.0)):
        raise OSError("gone")
    start = time.monotonic()
    with hold_run(run, _no_step) as held:
        assert held.before == (3, 1.0)
        assert time.monotonic() - start < HASTE.lease_watch / 2
    assert _leases(tmp_path) == []


def test_the_lease_of_a_killed_process_is_taken_over_at_once_with_its_last_step(
    run: Storage, tmp_path: Path, said: list[str]
) -> None:
    with _holder(tmp_path) as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
        with hold_run(run, _no_step) as held:
            assert held.before == (7, 1.5)
    assert not said


def test_an_old_lease_of_another_machine_is_taken_over_at_once(run: Storage, tmp_path: Path, said: list[str]) -> None:
    _elsewhere(tmp_path, time.time() - 2 * 3600)
    with hold_run(run, _no_step):
        assert not said


@pytest.mark.parametrize("skew_s", [-900.0, -90.0, 0.0, 86400.0])
def test_a_lease_that_is_not_renewed_is_watched_and_taken_over_whatever_its_clock_says(
    run: Storage, tmp_path: Path, skew_s: float, said: list[str]
) -> None:
    _elsewhere(tmp_path, time.time() + skew_s)
    with lease.hold_run(run, _no_step, replace(HASTE, lease_watch=0.5)) as held:
        check_lease(run, held.owner)
    assert "process 5 on elsewhere" in said[0] and "taking the run over" in said[1]


@pytest.mark.parametrize("skew_s", [-900.0, -90.0, 0.0, 86400.0])
def test_a_lease_that_is_renewed_is_respected_whatever_its_clock_says(
    run: Storage, tmp_path: Path, skew_s: float
) -> None:
    content = _elsewhere(tmp_path, time.time() + skew_s)
    timer = threading.Timer(0.4, lambda: _put(tmp_path, {**content, "renewed_at": time.time() + skew_s}))
    timer.start()
    with pytest.raises(ValueError, match="in use by process 5 on elsewhere"), hold_run(run, _no_step):
        pass
    timer.join()


def test_a_process_of_the_same_id_in_another_container_is_not_taken_for_dead(
    run: Storage, tmp_path: Path, said: list[str]
) -> None:
    with hold_run(run, _no_step):
        own = json.loads((tmp_path / "lease.json").read_text())
    _put(tmp_path, {**own, "boot": own["boot"] + "another namespace", "pid_started": "1"})
    with hold_run(run, _no_step):
        assert "watching" in said[0]


def test_a_claim_of_a_starter_that_died_does_not_stay_in_the_way(run: Storage, tmp_path: Path) -> None:
    (tmp_path / f"{lease._CLAIM}dead").touch()
    start = time.monotonic()
    with hold_run(run, _no_step):
        assert time.monotonic() - start >= HASTE.lease_watch
        assert _leases(tmp_path) == ["lease.json"]


def test_of_two_that_start_at_the_same_moment_one_wins(tmp_path: Path) -> None:
    rounds, start = 8, time.monotonic() + 2.0
    arguments = [sys.executable, "-c", COMPETE, str(tmp_path), str(rounds), str(start)]
    children = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = [line.split() for child in children for line in child.communicate(timeout=120)[0].splitlines()]
    assert all(child.returncode == 0 for child in children)
    held: dict[int, list[tuple[float, float]]] = {number: [] for number in range(rounds)}
    for number, first, last in lines:
        held[int(number)].append((float(first), float(last)))
    for spans in held.values():
        assert spans, "nobody got the run"
        assert all(one[1] < next_one[0] for one, next_one in zip(sorted(spans), sorted(spans)[1:], strict=False))


def test_a_driver_whose_run_was_taken_over_commits_nothing_more(images: Path, tmp_path: Path) -> None:
    def say(line: str) -> None:
        if line.startswith("step 1/"):
            _elsewhere(tmp_path / "run", time.time())

    with pytest.raises(LeaseLost, match="taken over by process 5 on elsewhere while this process did not answer"):
        pretrain(
            tiny_config(images, tmp_path, max_steps=9, checkpoint_every_steps=2),
            say=say,
            patience=Patience(lease_renewal=600.0),  # a renewal under way would put the old lease back
        )
    folder = Storage.open(str(tmp_path / "run"), StorageOptions({}))
    assert CheckpointStore(storage=folder).newest() is None
    assert json.loads((tmp_path / "run" / "lease.json").read_text())["owner"] == "other"


def test_a_lease_that_cannot_be_renewed_ends_no_run(images: Path, tmp_path: Path) -> None:
    broken: list[Path] = []

    def say(line: str) -> None:
        if line.startswith("step 1/"):
            lease_path = tmp_path / "run" / "lease.json"
            while not lease_path.is_dir():  # a renewal that is under way writes it anew
                lease_path.unlink(missing_ok=True)
                with suppress(FileExistsError):
                    lease_path.mkdir()
            (lease_path / "in the way").touch()
            broken.append(lease_path)

    pretrain(tiny_config(images, tmp_path, max_steps=9, checkpoint_every_steps=2), say=say, patience=HASTE)
    assert len(losses(tmp_path / "run")) == 9
    assert broken[0].is_dir()
