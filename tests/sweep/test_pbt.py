"""Population-based training: who is copied, what a copy takes along, and that it comes to an end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moco_ray.config import from_json
from moco_ray.data.manifest import Images
from moco_ray.driver.run import pretrain
from moco_ray.run_folder.begin import begin_run, is_run
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.sweep.config import SweepConfig
from moco_ray.sweep.pbt import check_population, explore, generation_ends, run_population, select
from moco_ray.sweep.records import Point
from moco_ray.sweep.space import parse_space
from moco_ray.sweep.state import SweepState
from moco_ray.sweep.sweep import _prepare
from tests.runs import digests, losses, metrics, tiny_config
from tests.sweep.sweeps import run_sweep, sweep_config


def _quiet(line: str) -> None:
    pass


def test_the_worst_are_replaced_by_the_best() -> None:
    rng = np.random.default_rng(0)
    assert select([3.0, 1.0, 4.0, 2.0], 0.25, rng) == {1: 2}
    assert set(select([3.0, 1.0, 4.0, 2.0], 0.5, rng)) == {1, 3}


def test_a_failed_member_is_always_replaced() -> None:
    rng = np.random.default_rng(0)
    assert select([None, 1.0, 4.0, None], 0.25, rng) == {0: 2, 3: 2}
    assert select([None, None], 0.25, rng) == {}


def test_two_members_make_a_population() -> None:
    assert select([2.0, 1.0], 0.25, np.random.default_rng(0)) == {1: 0}


def test_changed_parameters_stay_in_bounds_and_follow_the_seed(tmp_path: Path) -> None:
    space = parse_space(
        ("optim.lr=log:0.01:0.1", "method.encoder_momentum=1-log:0.9:0.999"), tiny_config("x", tmp_path)
    )
    values = {"optim.lr": 0.1, "method.encoder_momentum": 0.999}
    seen = [explore(space, values, np.random.default_rng(seed)) for seed in range(50)]
    assert all(0.01 <= new["optim.lr"] <= 0.1 and 0.9 <= new["method.encoder_momentum"] <= 0.999 for new in seen)
    assert explore(space, values, np.random.default_rng(7)) == seen[7]
    assert len({new["optim.lr"] for new in seen}) > 5


def test_generations_end_with_the_run() -> None:
    assert generation_ends(24, 4) == [6, 12, 18, 24]
    assert generation_ends(10, 3) == [3, 6, 10]
    with pytest.raises(ValueError, match=r"--pbt-generations 4 is more than the 3 steps"):
        generation_ends(3, 4)


@pytest.mark.parametrize(
    "text",
    ["optim.global_batch_size=choice:24,48", "method.queue_size=log:80:160", "optim.weight_decay=log:0.001:0.1"],
)
def test_what_a_checkpoint_depends_on_is_refused(text: str, tmp_path: Path) -> None:
    config = tiny_config("x", tmp_path)
    with pytest.raises(ValueError, match=r"pbt changes parameters in the middle of a run"):
        check_population(parse_space((text,), config), config)


def _state(images: Path, folder: Path) -> SweepState:
    """A sweep of 6 steps, as its driver sees it right after its start."""
    config = sweep_config(images, folder, max_steps=6)
    settings = SweepConfig(scheduler="pbt", pbt_quantile=0.4, metric="eval/rankme")
    storage = Storage.open(str(folder / "sweep"), StorageOptions({}))
    return _prepare(settings, config, parse_space((), config), storage, is_dry=False)


def _play(state: SweepState, die_before: int | None = None) -> int:
    """Train a population of three in this process; end before a certain trial as a killed driver would."""
    count = 0

    def run_all(next_trial: Callable[[], dict[str, Any] | None]) -> None:
        nonlocal count
        while (given := next_trial()) is not None:
            if count == die_before:
                raise KeyboardInterrupt
            count += 1
            record = state.ledger.records[given["trial"]]
            config, run = from_json(given["task"]["config"]), state.folder_of(record)
            if not is_run(run):
                begin_run(run, config, Images(train=state.manifest, test=None))
            pretrain(config, say=_quiet)
            for line in map(json.loads, run.read_bytes(run.join("eval.jsonl")).splitlines()):
                if line["step"] > given["seen"]:
                    measured = {"step": line["step"], "position": line["position"], "value": line["eval/rankme"]}
                    record.points.append(Point(**measured, metrics={}, order=state.ledger.next_order()))
            record.state = "finished"
            state.ledger.save(record)

    run_population(state, [2, 4, 6], 3, run_all)
    return count


@pytest.mark.slow
def test_a_driver_that_ends_at_any_moment_comes_to_the_same_copies(images: Path, tmp_path: Path) -> None:
    whole = _state(images, tmp_path / "whole")
    assert _play(whole) == 9  # three members, three generations
    assert sum(bool(record.parent) for record in whole.ledger.in_order()) == 2
    for count in (2, 3):  # in the middle of the first generation, and of the second
        with pytest.raises(KeyboardInterrupt):
            _play(_state(images, tmp_path / "again"), count)
    again = _state(images, tmp_path / "again")
    assert _play(again) == 9 - 2 - 3  # nothing was done twice
    ours = {record.name: record for record in again.ledger.in_order()}
    for record in whole.ledger.in_order():
        other = ours[record.name]
        assert (other.parameters, other.parent) == (record.parameters, record.parent)
        assert [point.value for point in other.points] == pytest.approx([point.value for point in record.points])


@pytest.mark.slow
def test_a_population_ends_with_copies_that_took_everything_along(
    images: Path, tmp_path: Path, shared_ray: None
) -> None:
    config = sweep_config(images, tmp_path, keep_last=10)
    said: list[str] = []
    result = run_sweep(config, said, scheduler="pbt", num_samples=2, pbt_generations=2)
    copies = [record for record in result.records if record.parent]
    assert len(copies) == 1 and copies[0].state == "finished"
    copy, folder = copies[0], Path(result.folder)
    donor = next(record for record in result.records if record.name == copy.parent)
    assert any(f"{copy.name} begins as a copy of {donor.name} after step 8" in line for line in said)
    assert [record.state for record in result.records].count("stopped") == 1

    # What the donor was at that step is what the copy began from, but for the parameters.
    ours = torch.load(folder / copy.name / "checkpoint_000000008" / "state.pt", weights_only=True)
    theirs = torch.load(folder / donor.name / "checkpoint_000000008" / "state.pt", weights_only=True)
    for name in ("step", "position", "seed", "manifest_digest"):
        assert ours[name] == theirs[name]
    for part in [name for name, value in theirs.items() if isinstance(value, dict) and name != "recorder"]:
        assert str(ours[part]) == str(theirs[part])
    before, after = from_json(theirs["config"]), from_json(ours["config"])
    assert (after.optim.lr, after.method.temperature) == (
        copy.parameters["optim.lr"],
        copy.parameters["method.temperature"],
    )
    assert before.optim.lr != after.optim.lr

    # Its record is one run's: the donor's steps, then its own, on the images that the donor would have seen.
    assert [line["step"] for line in metrics(folder / copy.name)] == list(range(16))
    assert digests(folder / copy.name) == digests(folder / donor.name)
    np.testing.assert_array_equal(losses(folder / copy.name)[:8], losses(folder / donor.name)[:8])
    assert (losses(folder / copy.name)[9:] != losses(folder / donor.name)[9:]).all()
    lineage = [json.loads(line) for line in (folder / copy.name / "lineage.jsonl").read_text().splitlines()]
    assert [(line["until_step"], line["run"]) for line in lineage] == [(8, donor.name)]
    assert any("optim.lr was" in change for change in lineage[0]["changed"])

    # The same command again finds nothing left to do.
    again = run_sweep(config, scheduler="pbt", num_samples=2, pbt_generations=2)
    assert [record.points for record in again.records] == [record.points for record in result.records]
