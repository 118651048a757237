from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from moco_ray.cluster import ray_map
from moco_ray.cluster.pool import choose_pool_workers, open_pool
from moco_ray.cluster.ray_map import RayPool
from moco_ray.config.run import RunConfig
from moco_ray.tasks.failure import RunFailed
from moco_ray.worker.pool import AT_ONCE, LocalPool


def make() -> str:
    return f"made by {os.getpid()}"


def double(made: str, item: int, *shared: int) -> tuple[int, str]:
    return 2 * item + sum(shared), made


def die_once(made: str, item: int, flag: str) -> int:
    if item == 5 and not os.path.exists(flag):
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def die(made: str, item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(made: str, item: int) -> None:
    raise ValueError(f"item {item} is wrong; use another")


def fail(made: str, item: int) -> None:
    raise ZeroDivisionError("a mistake")


def make_nothing() -> None:
    raise ValueError("there is no such encoder")


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 3])
def test_every_item_is_done_once(shared_ray: None, num_workers: int) -> None:
    run = RunConfig(num_workers=num_workers, device="cpu")
    with open_pool(make, run, choose_pool_workers(run)) as pool:
        for _ in range(2):  # the same workers again
            found = dict(pool.map(double, range(40), 3, 4))
            assert {place: value for place, (value, _) in found.items()} == {i: 2 * i + 7 for i in range(40)}
            assert len({made for _, made in found.values()}) in range(1, max(1, num_workers) + 1)


@pytest.mark.slow
def test_what_a_lost_worker_had_in_hand_is_done_again(shared_ray: None, tmp_path: Path, said: list[str]) -> None:
    pool = RayPool(make, count=2, resources={"CPU": 1.0})
    try:
        assert sorted(pool.map(die_once, range(20), str(tmp_path / "flag"))) == [(i, i) for i in range(20)]
    finally:
        pool.close()
    assert sum("a worker was lost" in line for line in said) == 1


@pytest.mark.slow
def test_work_that_kills_every_worker_ends(shared_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_map, "_MOST_LOSSES", 2)
    pool = RayPool(make, count=1, resources={"CPU": 1.0})
    try:
        with pytest.raises(RunFailed, match="2 workers in a row were lost with the same images"):
            list(pool.map(die, range(1)))
    finally:
        pool.close()


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_that_a_user_can_mend_arrives_as_it_was(shared_ray: None, num_workers: int) -> None:
    run = RunConfig(num_workers=num_workers, device="cpu")
    with (
        open_pool(make, run, choose_pool_workers(run)) as pool,
        pytest.raises(ValueError, match=r"^item \d is wrong; use another$"),
    ):
        list(pool.map(refuse, range(3)))


@pytest.mark.slow
def test_a_mistake_of_ours_names_itself(shared_ray: None) -> None:
    pool = RayPool(make, count=1, resources={"CPU": 1.0})
    try:
        with pytest.raises(RunFailed, match="ZeroDivisionError: a mistake"):
            list(pool.map(fail, range(3)))
    finally:
        pool.close()


@pytest.mark.slow
def test_what_cannot_be_made_ends_at_once(shared_ray: None) -> None:
    pool = RayPool(make_nothing, count=2, resources={"CPU": 1.0})
    try:
        with pytest.raises(ValueError, match="no such encoder"):
            list(pool.map(double, range(3)))
    finally:
        pool.close()


def test_no_more_is_made_ahead_than_a_few() -> None:
    begun: list[int] = []

    def note(made: Any, item: int) -> int:
        begun.append(item)
        return item

    pool = LocalPool(make)
    for place, _ in pool.map(note, range(100)):
        assert max(begun) <= place + 2 * AT_ONCE
    pool.close()


@pytest.mark.slow
def test_a_cluster_that_never_has_such_a_worker_is_an_error(shared_ray: None) -> None:
    with pytest.raises(ValueError, match=r"no node of the cluster has 1 CPU, 1 GPU"):
        choose_pool_workers(RunConfig(num_workers=1, device="cuda"))
