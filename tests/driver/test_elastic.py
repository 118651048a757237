"""Groups of workers that grow and fail: which size comes next, and when it is enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from moco_ray.cluster.notes import Notes, RunNotes
from moco_ray.driver.run import pretrain
from moco_ray.tasks.failure import RunFailed
from moco_ray.worker.devices import about_devices
from tests.cluster.nodes import processes_of
from tests.runs import tiny_config


@pytest.mark.slow
@pytest.mark.parametrize(("room", "size"), [(0, 0), (1, 1), (3, 3), (4, 4), (5, 4), (7, 4), (8, 8), (9, 8)])
def test_a_group_has_no_size_that_is_no_faster_than_a_smaller_one(room: int, size: int, shared_ray: None) -> None:
    assert _size(fewest=1, most=8, cpus_each=1.0, room=room) == size


@pytest.mark.slow
@pytest.mark.parametrize(("cpus_each", "room", "size"), [(0.4, 2.0, 5), (0.1, 0.5, 5), (0.4, 1.9, 0)])
def test_parts_of_a_cpu_are_counted_as_ray_counts_them(
    cpus_each: float, room: float, size: int, shared_ray: None
) -> None:
    assert _size(fewest=5, most=5, cpus_each=cpus_each, room=room) == size  # 2 // 0.4 is 4


def _size(*, fewest: int, most: int, cpus_each: float, room: float) -> int:
    """Workers of the next group, where there is so much room."""
    import ray
    from ray.train.v2.api.config import ScalingConfig

    from moco_ray.cluster.elastic import UsefulSizes

    (node,) = ray.nodes()  # it has CPUs for nine workers and data
    workers = ScalingConfig(num_workers=(fewest, most), resources_per_worker={"CPU": cpus_each})
    policy = UsefulSizes(workers, 8, None, Notes("attempt"), RunNotes("run"))
    return policy._count_possible_workers({node["NodeID"]: {"CPU": float(room)}})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "at", "reason"),
    [
        (
            "RayTrainWorker",
            "waiting for the first batch",
            "the workers failed 3 times in a row without committing a step after 0, the last time because of this: "
            "worker 0 lost",
        ),
        ("TrainController", "starting 1 worker", "controller died 3 times in a row without a newly committed step"),
    ],
)
def test_three_failures_in_a_row_without_a_committed_step_end_the_run_with_the_reason(
    kill: str, at: str, reason: str, images: Path, tmp_path: Path, shared_ray: None
) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line == at:
            for process in processes_of(kill):
                process.kill()

    config = tiny_config(images, tmp_path, num_workers=1)
    with pytest.raises(RunFailed) as error:
        pretrain(replace(config, optim=replace(config.optim, epochs=1000)), say=say)
    assert reason in str(error.value)
    assert said.count(at) == 3


def test_workers_on_different_gpus_are_said_to_wait_for_the_slowest() -> None:
    assert about_devices(["A10G", "A10G"]) is None
    expected = "the workers have different GPUs (2 x A10G, 1 x T4): all wait for the slowest at every step"
    assert about_devices(["A10G", "T4", "A10G"]) == expected
