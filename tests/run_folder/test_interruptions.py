"""What interruptions cost: recorded, counted as it was, and nothing after a clean end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moco_ray.config import to_json
from moco_ray.driver.run import pretrain
from moco_ray.run_folder.interruptions import Interruptions
from moco_ray.storage.storage import Storage, StorageOptions
from tests.runs import digests, tiny_config

# Trains as argv[1] says, and hangs for ever when step 13 is done.
HANG_AFTER_13 = """
import sys, time
from pathlib import Path
from moco_ray.config import from_json
from moco_ray.config.patience import Patience
from moco_ray.driver.run import pretrain

def say(line):
    print(line, flush=True)
    if line.startswith("step 13/"):
        time.sleep(1e6)

if __name__ == "__main__":
    pretrain(from_json(Path(sys.argv[1]).read_text()), say=say, patience=Patience(lease_renewal=0.1, line=0.0))
"""


def _storage(folder: Path) -> Storage:
    return Storage.open(str(folder), StorageOptions({}))


def _lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "interruptions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_an_interruption_is_recorded_when_its_first_step_is_done(tmp_path: Path, said: list[str]) -> None:
    record = Interruptions(_storage(tmp_path))
    record.begin("worker 1 lost", (57, time.time() - 30.0), 50, 3)
    assert _lines(tmp_path) == []
    record.end()
    record.end()
    (line,) = _lines(tmp_path)
    assert 30.0 <= line["seconds"] < 40.0
    expected = {"cause": "worker 1 lost", "resumed_at_step": 50, "steps_redone": 7, "num_workers": 3}
    assert {name: line[name] for name in expected} == expected
    assert said[0] == "interrupted: worker 1 lost; going on from step 50 with 3 workers, 7 steps are redone"


def test_the_record_survives_restarts_and_is_summed_up(tmp_path: Path, said: list[str]) -> None:
    for step in (50, 80):
        record = Interruptions(_storage(tmp_path))
        record.begin("a node is being taken away", (step + 4, time.time() - 20.0), step, 1)
        record.end()
    Interruptions(_storage(tmp_path)).sum_up()
    assert [line["resumed_at_step"] for line in _lines(tmp_path)] == [50, 80]
    assert re.match(r"interrupted 2 times: 4\d s without a step and 8 steps redone in all", said[-1])


def test_a_checkpoint_of_the_newest_step_redoes_nothing(tmp_path: Path) -> None:
    record = Interruptions(_storage(tmp_path))
    record.begin("growing from 2 to 4 workers", (60, time.time() + 5.0), 60, 4)  # by a clock that is ahead
    record.end()
    (line,) = _lines(tmp_path)
    assert line["steps_redone"] == 0 and line["seconds"] == 0.0


def test_a_record_that_cannot_be_written_is_a_warning(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "in the way").touch()
    record = Interruptions(_storage(tmp_path / "in the way"))
    record.begin("worker 0 lost", (2, time.time()), 1, 1)
    record.end()
    assert "interruptions.jsonl could not be written now" in said[-1]


def _wait_for_hang(child: subprocess.Popen[bytes], folder: Path, log: Path) -> None:
    """Wait until step 13 is done, noted in the lease, and the checkpoint of step 10 is committed."""
    deadline = time.monotonic() + 240
    while True:
        assert child.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        lease = folder / "lease.json"
        noted = json.loads(lease.read_text())["last_step"] if lease.exists() else None
        if noted and noted[0] == 13 and (folder / "checkpoint_000000010" / "COMMITTED").exists():
            return
        time.sleep(0.05)


def test_the_steps_that_a_kill_costs_are_those_that_were_done(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=15, checkpoint_every_steps=10, log_every_steps=1)
    (tmp_path / "config.json").write_text(to_json(config))
    (tmp_path / "job.py").write_text(HANG_AFTER_13)
    log = tmp_path / "job.log"
    with log.open("wb") as out:
        command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path / "config.json")]
        child = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        _wait_for_hang(child, tmp_path / "run", log)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    done_before = [int(step) for step in re.findall(r"^step (\d+)/", log.read_text(), re.MULTILINE)]
    said: list[str] = []
    pretrain(config, say=said.append)
    assert done_before == list(range(1, 14))
    (line,) = _lines(tmp_path / "run")
    assert (line["resumed_at_step"], line["steps_redone"]) == (10, 3) and line["seconds"] > 0
    assert "interrupted: the run was stopped; going on from step 10 with 1 worker, 3 steps are redone" in said
    assert any(line.startswith("interrupted 1 time: ") and "3 steps redone" in line for line in said)
    whole = pretrain(replace(config, run=replace(config.run, name="whole")), say=said.append)
    assert digests(tmp_path / "run") == digests(whole.folder)


def test_nothing_is_recorded_after_a_clean_end(images: Path, tmp_path: Path) -> None:
    said: list[str] = []
    for steps in (4, 4, 6):
        pretrain(tiny_config(images, tmp_path, max_steps=steps), say=said.append)
    assert not (tmp_path / "run" / "interruptions.jsonl").exists()
    assert not (tmp_path / "run" / "lease.json").exists()
    assert not [line for line in said if line.startswith("interrupted")]


def test_what_a_failure_in_the_middle_costs_is_counted_at_the_next_start(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, max_steps=8, checkpoint_every_steps=100, log_every_steps=1)

    def interrupt(line: str) -> None:
        if line.startswith("step 1/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(config, say=interrupt)
    pretrain(config, say=lambda line: None)
    (line,) = _lines(tmp_path / "run")
    assert (line["resumed_at_step"], line["steps_redone"]) == (0, 1)
