"""ASHA's rungs are in the records: a driver that is started again decides as if it had never ended."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import TrialScheduler

from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.sweep import tune as tuning
from moco_ray.sweep.records import Ledger, Point, Record
from moco_ray.sweep.tune import _Keeper, asha
from moco_ray.worker.console import said_by

STEPS, EVERY = 27, 3


def _ledger(folder: Path) -> Ledger:
    return Ledger(Storage.open(str(folder), StorageOptions({})))


def _asha(ledger: Ledger) -> Any:
    return asha(ledger, grace_images=3, max_images=STEPS, reduction=3)


def _trial(name: str) -> Any:
    """A trial as Tune knows it: its own id is another after each start."""
    return SimpleNamespace(config={"trial": name}, trial_id=f"{name}-{np.random.default_rng().integers(2**30)}")


def _report(scheduler: Any, ledger: Ledger, name: str, step: int, value: float) -> bool:
    """One measurement; whether the trial is stopped for it."""
    record = ledger.records[name]
    decision = scheduler.on_trial_result(None, _trial(name), {"position": step, "value": value})
    record.points.append(Point(step=step, position=step, value=value, metrics={}, order=ledger.next_order()))
    if decision == TrialScheduler.STOP:
        record.state = "stopped"
    ledger.save(record)
    return bool(decision == TrialScheduler.STOP)


def _run(folder: Path, restart_after: int | None) -> dict[str, tuple[str, int]]:
    """Nine trials in turns; the driver is started again after so many measurements. Name -> state and last step."""
    values = np.random.default_rng(3).permutation(9) * 10.0
    ledger = _ledger(folder)
    scheduler = _asha(ledger)
    for index in range(9):
        ledger.save(Record(name=f"trial_{index:04d}", index=index, parameters={}))
        scheduler.on_trial_add(None, _trial(f"trial_{index:04d}"))
    count = 0
    for step in range(EVERY, STEPS + 1, EVERY):
        for index in range(9):
            name = f"trial_{index:04d}"
            if ledger.records[name].has_ended:
                continue
            _report(scheduler, ledger, name, step, values[index] + step)
            count += 1
            if count == restart_after:
                ledger = _ledger(folder)
                scheduler = _asha(ledger)
                for record in ledger.in_order():
                    if not record.has_ended:
                        scheduler.on_trial_add(None, _trial(record.name))
    return {r.name: (r.state, r.points[-1].step) for r in ledger.in_order()}


def test_asha_stops_most_trials_early_and_keeps_the_best(tmp_path: Path) -> None:
    ended = _run(tmp_path, None)
    assert sum(state == "stopped" for state, _ in ended.values()) >= 5
    best = f"trial_{int(np.argmax(np.random.default_rng(3).permutation(9))):04d}"
    assert ended[best] == ("running", STEPS)


def test_a_restart_at_any_moment_changes_no_decision(tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole", None)
    for moment in (1, 4, 9, 11, 17):
        assert _run(tmp_path / str(moment), moment) == whole


def test_a_decision_that_was_never_carried_out_is_made_up_for(tmp_path: Path) -> None:
    """The driver died after it wrote the measurement down, and before it stopped the trial."""
    ledger = _ledger(tmp_path)
    for index, value in enumerate((9.0, 8.0, 7.0, 1.0)):
        point = Point(step=3, position=3, value=value, metrics={}, order=index)
        ledger.save(Record(name=f"trial_{index:04d}", index=index, parameters={}, points=[point]))
    again = _ledger(tmp_path)
    _asha(again)
    assert [record.state for record in again.in_order()][3] == "stopped"
    assert _ledger(tmp_path).records["trial_0003"].state == "stopped"


class _AwayForAMoment(Ledger):
    """Its storage has failed for longer than it is waited for."""

    is_away = False

    def save(self, record: Record) -> None:
        if self.is_away:
            raise OSError("no answer")
        super().save(record)


def test_an_end_that_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    ledger = _AwayForAMoment(Storage.open(str(tmp_path), StorageOptions({})))
    ledger.save(Record(name="trial_0000", index=0, parameters={}))
    keeper = _Keeper(ledger, lambda record: None)
    ledger.is_away = True
    keeper.on_trial_result(0, [], _trial("trial_0000"), {"seconds": 1.0, "ended": "failed", "reason": "it diverged"})
    ledger.is_away = False
    assert _ledger(tmp_path).records["trial_0000"].state == "running"
    keeper.on_experiment_end([])
    assert _ledger(tmp_path).records["trial_0000"].reason == "it diverged"


def test_a_sweep_says_what_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_SAY_WAITING_EVERY_S", 0.0)
    said: list[str] = []
    keeper = _Keeper(_ledger(tmp_path), lambda record: None)
    trial = _trial("trial_0000")
    with said_by(said.append):
        for trial.status in ("RUNNING", "PENDING"):
            keeper.on_step_end(0, [trial])
    assert said == ["trial_0000: waiting for a node with room, which other work may hold"]
