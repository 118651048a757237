"""The table of runs: real small runs that ended in every way, and folders that were damaged."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moco_ray.cli.runs import main
from moco_ray.config import Config
from moco_ray.config.patience import Patience
from moco_ray.driver.run import pretrain
from moco_ray.run_folder.found import find_runs
from moco_ray.run_folder.lease import hold_run
from moco_ray.run_folder.summary import summaries
from moco_ray.tasks.pretraining import PRETRAINING
from tests.runs import punctual_checkpoints, tiny_config
from tests.s3 import S3Server, open_storage

STEPS = 12
HASTE = Patience(lease_watch=1.0)


def _quiet(line: str) -> None:
    pass


def _config(images: Path, storage: str | Path, **run: Any) -> Config:
    config = tiny_config(images, storage, max_steps=STEPS, checkpoint_every_steps=2, keep_last=20, **run)
    return replace(config, eval=replace(config.eval, every_steps=4, max_time_fraction=1.0))


def _interrupt_at_8(line: str) -> None:
    if "after 8 steps" in line and "kNN" in line:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def made(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage path with a run that ended, one that was stopped as by Ctrl-C, and one whose loss was no number."""
    root = tmp_path_factory.mktemp("runs")
    with punctual_checkpoints():
        pretrain(_config(images, root, name="ended"), say=_quiet)
        with pytest.raises(KeyboardInterrupt):
            pretrain(_config(images, root, name="stopped"), say=_interrupt_at_8)
        wild = _config(images, root, name="failed", dtype="float32")
        with pytest.raises(ValueError, match="training has diverged"):
            pretrain(replace(wild, optim=replace(wild.optim, lr=1e9)), say=_quiet)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


def _rows(root: str | Path, *flags: str) -> dict[str, dict[str, Any]]:
    """What the command writes for programs, by name, in its order."""
    with tempfile.TemporaryDirectory() as folder:
        assert main([str(root), "--json", f"{folder}/rows.json", *flags]) == 0
        rows: list[dict[str, Any]] = json.loads(Path(folder, "rows.json").read_text())
    return {row["name"]: row for row in rows}


def test_how_runs_ended_is_told_with_the_reason(root: Path) -> None:
    rows = _rows(root)
    assert list(rows) == ["failed", "stopped", "ended"]  # newest first
    assert {name: row["state"] for name, row in rows.items()} == {name: name for name in rows}
    assert "training has diverged" in rows["failed"]["reason"] and rows["stopped"]["reason"] == "interrupted"
    ended, stopped = rows["ended"], rows["stopped"]
    assert (ended["step"], ended["last_step"], ended["checkpoint"]) == (STEPS, STEPS, STEPS)
    assert (stopped["step"], stopped["last_step"], stopped["checkpoint"]) == (8, STEPS, 8)
    assert rows["failed"]["checkpoint"] in (None, 2) and rows["failed"]["last_step"] == STEPS
    assert (ended["task"], ended["preset"]) == ("pretraining", "smoke")
    lines = [json.loads(line) for line in (root / "ended" / "eval.jsonl").read_text().splitlines()]
    best = max((line for line in lines if line["step"] > 0), key=lambda line: line["eval/knn_top1"])
    assert ended["best"] == {"metric": PRETRAINING.best_by, "value": best["eval/knn_top1"], "step": best["step"]}
    assert ended["num_bytes"] == sum(path.stat().st_size for path in (root / "ended").rglob("*") if path.is_file())
    assert 0 < ended["device_hours"]["cpu"] < 0.1 and time.time() - ended["changed_at"] < 300


def test_only_what_was_changed_is_told(root: Path, images: Path) -> None:
    changes = _rows(root)["ended"]["changes"]
    assert changes["optim.lr"] == {"value": 0.1, "preset": 0.03}
    assert changes["data.uri"]["value"] == str(images) and changes["method.queue_size"]["value"] == 80
    assert not {"run.name", "run.storage_path", "optim.momentum", "model.arch", "eval.every_steps"} & set(changes)


def test_a_run_that_is_held_is_running_with_its_newest_step(root: Path) -> None:
    (root / "stopped" / "end.json").write_text("{}")
    with hold_run(open_storage(str(root / "stopped")), lambda: (10, 1.5)):
        row = _rows(root)["stopped"]
    assert (row["state"], row["step"], row["checkpoint"]) == ("running", 10, 8)
    assert next(iter(_rows(root, "--run", "stopped"))) == "stopped"


def test_a_run_that_was_killed_is_stopped(root: Path) -> None:
    with hold_run(open_storage(str(root / "stopped")), lambda: (10, 1.5)):
        lease = json.loads((root / "stopped" / "lease.json").read_text())
    (root / "stopped" / "end.json").unlink()
    (root / "stopped" / "lease.json").write_text(json.dumps({**lease, "pid_started": "1"}))
    row = _rows(root)["stopped"]
    assert (row["state"], row["reason"], row["step"]) == ("stopped", "", 10)


def test_a_lease_of_another_machine_is_watched_where_its_clock_tells_nothing(root: Path) -> None:
    folder = root / "stopped"
    lease = {"owner": "x", "host": "elsewhere", "boot": "b", "pid": 5, "pid_started": "1", "last_step": [9, 1.0]}
    states = {}
    for age_s in (0.1, 90.0, -90.0, 2 * 3600.0):
        (folder / "lease.json").write_text(json.dumps({**lease, "renewed_at": time.time() - age_s}))
        (row,) = summaries(find_runs(open_storage(str(root)), ["stopped"]), HASTE)
        states[age_s] = row.state
    assert states == {0.1: "running", 90.0: "stopped", -90.0: "stopped", 2 * 3600.0: "stopped"}
    (folder / "lease.json").write_text(json.dumps({**lease, "renewed_at": time.time() - 90}))
    renewed = json.dumps({**lease, "renewed_at": time.time() - 89})
    timer = threading.Timer(HASTE.lease_watch / 2, lambda: (folder / "lease.json").write_text(renewed))
    timer.start()
    (row,) = summaries(find_runs(open_storage(str(root)), ["stopped"]), HASTE)
    timer.join()
    assert (row.state, row.step) == ("running", 9)


def test_the_end_is_forgotten_when_the_run_goes_on(images: Path, root: Path) -> None:
    config = _config(images, root, name="stopped")
    before = (root / "stopped" / "end.json").read_bytes()
    with pytest.raises(ValueError, match="another experiment"):  # that is no end of the run
        pretrain(replace(config, optim=replace(config.optim, lr=0.2)), say=_quiet)
    assert (root / "stopped" / "end.json").read_bytes() == before
    hours = _rows(root)["stopped"]["device_hours"]["cpu"]
    pretrain(config, say=_quiet)
    assert not (root / "stopped" / "end.json").exists()
    row = _rows(root)["stopped"]
    assert (row["state"], row["step"]) == ("ended", STEPS) and row["device_hours"]["cpu"] > hours


def test_what_is_damaged_is_a_row_that_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("broken", "list", "odd", "lost", "cut", "unfinished"):
        shutil.copytree(root / "ended", root / name)
    (root / "broken" / "config.json").write_text('{"preset": "smo')
    (root / "list" / "config.json").write_text("[1, 2]")
    (root / "odd" / "config.json").write_text('{"preset": ["x"], "optim": 3}')
    (root / "lost" / "config.json").unlink()
    evaluations = root / "cut" / "eval.jsonl"
    evaluations.write_bytes(evaluations.read_bytes()[:-20])
    (root / "cut" / "lease.json").write_text("{")
    (root / "cut" / "end.json").write_bytes(b"\xff\xfe")
    for marker in (root / "unfinished").glob("checkpoint_*/COMMITTED"):
        marker.write_text("{")
    shutil.copytree(root / "ended", os.fsdecode(os.fsencode(root) + b"/caf\xe9"))  # of a Latin-1 disk
    (root / "no run").mkdir()
    (root / "no run" / "notes.txt").write_text("x")
    rows = _rows(root)
    assert "no run" not in rows and rows["caf\udce9"]["state"] == "ended"
    assert "caf\\xe9" in capsys.readouterr().out
    for name in ("broken", "list", "odd", "lost"):
        assert rows[name]["state"] == "damaged" and "config.json" in rows[name]["reason"], rows[name]
    assert "config.json is damaged" in rows["broken"]["damage"][0]
    assert rows["cut"]["state"] == "ended" and rows["cut"]["best"]["step"] > 0
    assert [text.split(" is")[0] for text in rows["cut"]["damage"]] == ["end.json", "eval.jsonl: line 4"]
    assert rows["unfinished"]["damage"] == ["none of its checkpoints is whole"]
    assert (rows["unfinished"]["checkpoint"], rows["unfinished"]["last_step"]) == (None, STEPS)


def test_trials_stand_under_the_name_of_their_sweep(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = root / "search"
    for name in ("trial_000", "trial_001"):
        shutil.copytree(root / "stopped", sweep / name)
    shutil.copytree(root / "ended", sweep / "trial_002")
    (sweep / "sweep.json").write_text("{}")
    (sweep / "trials").mkdir()
    (sweep / "trials" / "trial_001.json").write_text('{"state": "stopped", "reason": "worse than others"}')
    (sweep / "trials" / "trial_002.json").write_text('{"state": "failed", "reason": "no result"}')
    rows = _rows(root, "--run", "search")
    assert {(row["name"], row["state"], row["reason"]) for row in rows.values()} == {
        ("search/trial_000", "stopped", "interrupted"),
        ("search/trial_001", "stopped", "worse than others"),
        ("search/trial_002", "failed", "no result"),
    }
    assert set(_rows(root, "--run", "search/trial_000", "ended")) == {"search/trial_000", "ended"}
    assert set(_rows(sweep)) == {"trial_000", "trial_001", "trial_002"}  # the sweep's own folder
    assert set(_rows(root / "ended")) == {"ended"}  # and a run's


def test_the_table_is_readable_in_80_columns(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "a-very-long-name-of-a-run-" * 4
    shutil.copytree(root / "ended", root / long)
    assert main([str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "state", "steps", "time", "size", "age"]
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines if line != long), lines
    assert lines[lines.index(long) + 1].split()[:2] == ["ended", "12/12"]  # whole, to be copied
    assert any(line.split()[:3] == ["stopped", "stopped", "8/12"] for line in lines)
    assert any("best knn_top1" in line and "checkpoint 12" in line for line in lines)


def test_no_credentials_are_shown(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "ended" / "config.json"
    values = json.loads(path.read_text())
    values["data"] |= {"storage_options": '{"secret": "hush1"}', "uri": "https://me:hush2@host/a?X-Amz-Signature=hush3"}
    values["run"]["storage_options"] = '{"secret": "hush4"}'
    path.write_text(json.dumps(values))
    rows = _rows(root)
    assert rows["ended"]["changes"]["data.uri"]["value"] == "https://…@host/a?…"
    assert "hush" not in json.dumps(rows) + capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["ROOT/nowhere"], "there is no such folder"),
        (["ROOT", "--run", "endet"], "did you mean ended?"),
        (["ROOT", "--yes"], "give both"),
        (["ROOT", "--storage-options", "nowhere.json"], "storage-options"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(
    flags: list[str], message: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([flag.replace("ROOT", str(root)) for flag in flags]) == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in error, error


def test_a_path_without_runs_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 0
    assert "holds no runs" in capsys.readouterr().out


def test_runs_in_a_bucket_are_shown_and_pruned(root: Path, images: Path, s3: S3Server, capsys: Any) -> None:
    uri = f"s3://{s3.bucket}/runs"
    with punctual_checkpoints():
        pretrain(_config(images, uri, name="remote"), say=_quiet)
    storage = open_storage(uri)
    storage.write_bytes(storage.join("broken", "config.json"), b"{")
    rows = _rows(uri)
    assert (rows["remote"]["state"], rows["remote"]["step"], rows["broken"]["state"]) == ("ended", STEPS, "damaged")
    assert rows["remote"]["num_bytes"] > 1e6 and time.time() - rows["remote"]["changed_at"] < 300
    pruned = _rows(uri, "--prune", "--yes")["remote"]
    (run,) = find_runs(storage, ["remote"])
    assert pruned["delete"] and list(run.checkpoints()) == pruned["keep"]
    assert run.num_bytes == rows["remote"]["num_bytes"] - pruned["num_bytes"]
    assert pretrain(_config(images, uri, name="remote"), say=_quiet).step == STEPS
    assert s3.secret not in capsys.readouterr().out
