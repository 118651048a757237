"""Old checkpoints go; what a run needs to go on, and whatever somebody holds, stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from moco_ray.cli.runs import main
from moco_ray.config import Config
from moco_ray.config.patience import Patience
from moco_ray.driver.run import pretrain
from moco_ray.run_folder import prune as pruning_module
from moco_ray.run_folder.checkpoint import CheckpointStore
from moco_ray.run_folder.found import FoundRun, find_runs
from moco_ray.run_folder.lease import LeaseLost, hold_run
from moco_ray.run_folder.prune import preview
from tests.runs import digests, losses, punctual_checkpoints, tiny_config
from tests.s3 import open_storage

HASTE = Patience(lease_renewal=0.1, lease_watch=1.0, lease_look=0.05)
prune = partial(pruning_module.prune, patience=HASTE)
STOPPED_AT, STEPS = 10, 14


def _config(images: Path, root: Path, max_steps: int, name: str = "run") -> Config:
    config = tiny_config(images, root, max_steps=max_steps, checkpoint_every_steps=1, keep_last=20, name=name)
    config = replace(config, run=replace(config.run, keep_every_steps=3))
    return replace(config, eval=replace(config.eval, every_steps=4, max_time_fraction=1.0))


def _quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def stopped(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ten steps of fourteen, with all its checkpoints."""
    root = tmp_path_factory.mktemp("runs")
    with punctual_checkpoints():
        pretrain(_config(images, root, STOPPED_AT), say=_quiet)
    return root / "run"


@pytest.fixture
def folder(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it, of which the encoder after four steps was the best."""
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    lines = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    best = [{**line, "eval/knn_top1": {4: 99.0}.get(line["step"], 10.0)} for line in lines]
    (folder / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in best))
    return folder


def _found(folder: Path) -> FoundRun:
    return find_runs(open_storage(str(folder.parent)), ["run"])[0]


def _steps(folder: Path) -> list[int]:
    return CheckpointStore(storage=open_storage(str(folder))).steps()


def test_newest_best_and_every_nth_stay_and_nothing_else_is_touched(folder: Path) -> None:
    others = {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "checkpoint_" not in str(path)
    }
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    expected = preview(_found(folder))
    assert _steps(folder) == list(range(1, STOPPED_AT + 1))  # looking deletes nothing
    done = prune(_found(folder))
    assert done == expected and done.delete == [1, 2, 5, 7, 8]
    assert _steps(folder) == done.keep == [3, 4, 6, 9, 10]
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "checkpoint_" not in str(path)}
    assert after == others and any("metrics/" in str(path) for path in after)
    assert size - done.num_bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert prune(_found(folder)).delete == []


def test_a_pruned_run_goes_on_as_if_it_were_whole(images: Path, stopped: Path, folder: Path) -> None:
    whole = Path(shutil.copytree(stopped, folder.parent / "whole"))
    assert prune(_found(folder)).delete
    for path in (folder, whole):
        pretrain(_config(images, folder.parent, STEPS, path.name), say=_quiet)
    assert digests(folder) == digests(whole) and len(losses(folder)) == STEPS
    np.testing.assert_array_equal(losses(folder), losses(whole))


def test_what_a_killed_driver_noted_of_its_last_step_stays(images: Path, folder: Path) -> None:
    lease = {"owner": "", "renewed_at": 1.0, "last_step": [13, 1.5]}
    (folder / "lease.json").write_text(json.dumps(lease))
    assert prune(_found(folder)).delete
    now = json.loads((folder / "lease.json").read_text())
    assert now["owner"] == "" and now["last_step"] == [13, 1.5]
    pretrain(_config(images, folder.parent, STEPS), say=_quiet)
    (line,) = (json.loads(line) for line in (folder / "interruptions.jsonl").read_text().splitlines())
    assert (line["resumed_at_step"], line["steps_redone"]) == (10, 3)


def test_a_live_run_survives_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with hold_run(open_storage(str(folder)), lambda: None):
        assert main([str(folder.parent), "--prune", "--yes"]) == 0
    assert "run: nothing is deleted: it is running" in capsys.readouterr().out
    assert len(_steps(folder)) == STOPPED_AT


def test_a_run_that_starts_after_the_preview_survives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _found(folder)
    monkeypatch.setattr(pruning_module, "is_held", lambda *lease: False)  # as it looked before
    with hold_run(open_storage(str(folder)), lambda: None, HASTE):
        assert prune(run).problem == "it is running"
    assert len(_steps(folder)) == STOPPED_AT


def test_a_trial_of_a_sweep_that_runs_survives(folder: Path) -> None:
    root = folder.parent
    (root / "sweep.json").write_text("{}")
    with hold_run(open_storage(str(root)), lambda: None):
        assert prune(_found(folder)).problem == "it is running"
    assert len(_steps(folder)) == STOPPED_AT
    assert prune(_found(folder)).delete and not (root / "lease.json").exists()


def test_who_loses_the_run_deletes_no_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delete: Callable[..., None] = pruning_module.delete_checkpoint

    def take_over(run: object, step: int) -> None:
        delete(run, step)
        taken = json.dumps({"owner": "other", "pid": 5, "host": "elsewhere"})
        (folder / "lease.new").write_text(taken)
        (folder / "lease.new").rename(folder / "lease.json")  # whole at once, as a driver writes it

    monkeypatch.setattr(pruning_module, "delete_checkpoint", take_over)
    with pytest.raises(LeaseLost):
        prune(_found(folder))
    assert _steps(folder) == list(range(2, STOPPED_AT + 1))
    assert json.loads((folder / "lease.json").read_text())["owner"] == "other"


def test_only_a_checkpoint_that_verifies_is_the_newest(folder: Path) -> None:
    state = folder / "checkpoint_000000010" / "state.pt"
    state.write_bytes(b"x" * state.stat().st_size)  # its size is right
    (folder / "checkpoint_000000009" / "COMMITTED").unlink()
    done = prune(_found(folder))
    assert 8 in done.keep and CheckpointStore(storage=open_storage(str(folder))).newest() == 8


@pytest.mark.parametrize("damage", ["eval.jsonl", "config.json", "markers"])
def test_nothing_goes_where_it_is_not_known_what_must_stay(damage: str, folder: Path) -> None:
    if damage == "markers":
        for marker in folder.glob("checkpoint_*/COMMITTED"):
            marker.unlink()
    else:
        path = folder / damage
        path.write_bytes(path.read_bytes()[:-20])
    assert prune(_found(folder)).problem
    assert len(_steps(folder)) == STOPPED_AT


def test_the_command_shows_first_and_deletes_only_when_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder, folder.parent / "other")
    assert main([str(folder.parent), "--prune"]) == 0
    assert len(_steps(folder)) == STOPPED_AT
    out = capsys.readouterr().out
    assert "run: would delete checkpoints 1, 2, 5, 7, 8 (" in out and "10 checkpoints of 2 runs" in out
    assert (
        main([str(folder.parent), "--prune", "--yes", "--run", "run", "--json", str(folder.parent / "rows.json")]) == 0
    )
    assert "run: deleted checkpoints 1, 2, 5, 7, 8 (" in capsys.readouterr().out
    assert _steps(folder) == [3, 4, 6, 9, 10] and len(_steps(folder.parent / "other")) == STOPPED_AT
    (row,) = json.loads((folder.parent / "rows.json").read_text())
    assert row["name"] == "run" and row["delete"] == [1, 2, 5, 7, 8] and row["num_bytes"] > 1e6
