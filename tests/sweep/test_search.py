"""Which parameters come next: TPE learns from the records alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.sweep.records import Ledger, Point, Record, best_of
from moco_ray.sweep.search import num_trials, suggest
from moco_ray.sweep.space import Space, draw, parse_space
from tests.runs import tiny_config


def _ledger(folder: Path) -> Ledger:
    return Ledger(Storage.open(str(folder), StorageOptions({})))


def _space(tmp_path: Path) -> Space:
    return parse_space(("optim.lr=log:0.001:10", "model.projector=choice:mlp,linear"), tiny_config("x", tmp_path))


def _quality(values: dict[str, object]) -> float:
    """Best at lr 0.1 with an mlp."""
    return (
        50
        - 10 * abs(math.log10(float(str(values["optim.lr"]))) + 1)
        - (5 if values["model.projector"] == "linear" else 0)
    )


def _record(index: int, values: dict[str, object], state: str = "finished") -> Record:
    point = Point(step=10, position=240, value=_quality(values), metrics={}, order=index)
    return Record(name=f"trial_{index:04d}", index=index, parameters=dict(values), state=state, points=[point])  # type: ignore[arg-type]


def test_tpe_comes_closer_to_the_best_than_chance(tmp_path: Path) -> None:
    space, ledger = _space(tmp_path), _ledger(tmp_path)
    for index in range(30):
        ledger.save(_record(index, suggest(space, 0, index, ledger)))
    late = [_quality(record.parameters) for record in ledger.in_order()[20:]]
    by_chance = [_quality(draw(space, 0, index)) for index in range(30)]
    assert np.mean(late) > np.mean(by_chance) + 5
    best = best_of(ledger.in_order())
    assert best is not None and best.value is not None and best.value > 48


def test_tpe_goes_on_from_the_files_as_from_memory(tmp_path: Path) -> None:
    space, ledger = _space(tmp_path), _ledger(tmp_path)
    for index in range(12):
        ledger.save(_record(index, draw(space, 0, index), "stopped" if index % 3 else "finished"))
    ledger.save(Record(name="trial_0012", index=12, parameters=draw(space, 0, 12)))
    ledger.save(Record(name="trial_0013", index=13, parameters=draw(space, 0, 13), state="failed"))
    assert suggest(space, 0, 14, ledger) == suggest(space, 0, 14, _ledger(tmp_path))


def test_the_number_of_trials_counts_grid_points(tmp_path: Path) -> None:
    config = tiny_config("x", tmp_path)
    grid = ("optim.lr=grid:0.1,0.2,0.3",)
    assert num_trials(parse_space(grid, config), None) == 3
    assert num_trials(parse_space((), config), None) == 16
    mixed = parse_space((*grid, "method.temperature=log:0.1:1"), config)
    assert (num_trials(mixed, None), num_trials(mixed, 4)) == (3, 12)
    with pytest.raises(ValueError, match=r"--num-samples 8 would run each of the 3 points"):
        num_trials(parse_space(grid, config), 8)
