"""Trials at once: as many as fit with CPUs left for data, and a refusal with numbers where none ever will."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moco_ray.config import Config
from moco_ray.sweep.capacity import Capacity, choose_capacity
from moco_ray.sweep.config import SweepConfig
from moco_ray.worker.console import said_by
from tests.runs import tiny_config

pytestmark = pytest.mark.slow  # one Ray of ten CPUs


def _capacity(config: Config, num_trials: int, **settings: Any) -> tuple[Capacity, str]:
    said: list[str] = []
    with said_by(said.append):
        capacity = choose_capacity(SweepConfig(**settings), config, num_trials)
    return capacity, said[-1]


@pytest.mark.parametrize(
    ("workers", "settings", "at_once"),
    [
        (0, {}, 5),
        (0, {"cpus_per_trial": 3.0}, 3),
        (0, {"cpus_per_trial": 0.5}, 16),
        (0, {"max_concurrent": 2}, 2),
        (1, {}, 5),
        (2, {}, 3),
        (2, {"data_cpus": 2.0}, 2),
        (4, {}, 2),
        (8, {}, 1),
    ],
)
def test_so_many_trials_leave_cpus_for_their_data(
    workers: int, settings: dict[str, Any], at_once: int, tmp_path: Path, shared_ray: None
) -> None:
    capacity, said = _capacity(tiny_config("x", tmp_path, num_workers=workers), 16, **settings)
    assert capacity.at_once == at_once
    assert said.startswith(f"{at_once} trial{'s' if at_once > 1 else ''} at once: each")
    data = 0.0 if workers == 0 else settings.get("data_cpus", 1.0)
    cpus = capacity.process.get("CPU", 0.0) if workers == 0 else workers
    assert at_once * (cpus + data) <= 10


def test_elastic_trials_share_what_there_is(tmp_path: Path, shared_ray: None) -> None:
    config = tiny_config("x", tmp_path, num_workers=None, min_workers=1, max_workers=8)
    capacity, said = _capacity(config, 2)
    assert (capacity.at_once, capacity.config.run.min_workers, capacity.config.run.max_workers) == (2, 1, 4)
    assert "each trains with 1 to 4 x 1 CPU" in said
    capacity, _ = _capacity(config, 5)
    assert (capacity.at_once, capacity.config.run.num_workers) == (5, 1)


@pytest.mark.parametrize(
    ("run", "settings", "message"),
    [
        ({"num_workers": 0}, {"cpus_per_trial": 64.0}, r"a process with 64 CPUs, can never start.*10 CPU"),
        ({"num_workers": 8, "cpus_per_worker": 4.0}, {}, r"8 workers with 4 CPUs each.*10 CPUs"),
        ({"num_workers": 8}, {"data_cpus": 5.0}, r"8 x 1 CPU to train and 5 CPUs for data, can never start.*10 CPU"),
    ],
)
def test_a_cluster_that_can_never_hold_one_trial_is_said_with_numbers(
    run: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path, shared_ray: None
) -> None:
    with pytest.raises(ValueError) as caught:
        _capacity(tiny_config("x", tmp_path, **run), 4, **settings)
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)


def test_a_missing_gpu_is_said(tmp_path: Path, shared_ray: None) -> None:
    config = tiny_config("x", tmp_path)
    with pytest.raises(ValueError, match=r"1 GPU, can never start"):
        _capacity(replace(config, run=replace(config.run, device="cuda")), 4)
