"""Trackers that answer, do not answer, and answer again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest

from moco_ray.config import Config
from moco_ray.driver.plan import make_plan, open_run
from moco_ray.driver.run import pretrain
from moco_ray.run_folder.metrics import metrics_line
from moco_ray.tasks.job import Job
from moco_ray.tasks.pretraining import PRETRAINING
from moco_ray.worker.trackers import follower as follower_module
from moco_ray.worker.trackers.follower import TrackerFollower
from tests.runs import metrics, tiny_config
from tests.worker.trackers.servers import MlflowServer, closed_port, silent_port


@pytest.fixture
def server() -> Iterator[MlflowServer]:
    with MlflowServer().running() as running:
        yield running


@pytest.fixture
def mlflow(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    """The server, to which the environment leads."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return server


def tracked(images: Path, folder: Path, *trackers: Any, **run: Any) -> Config:
    return tiny_config(images, folder, track=trackers, log_every_steps=1, checkpoint_every_steps=2, **run)


def children() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE and "moco_ray.worker.trackers" in " ".join(process.cmdline())
    ]


def follow(config: Config) -> tuple[TrackerFollower, Job]:
    """What follows a run of which nothing is done."""
    plan = make_plan(PRETRAINING, config, open_run(config))
    job = plan.job(uses_gpu=False, lease_owner="")
    plan.run.write_bytes(plan.run.join("config.json"), b"{}")
    return TrackerFollower(job.trackers[0], job, plan.run, 0), job


def lines(first: int, end: int) -> list[dict[str, Any]]:
    return [
        {"step": step, "position": 24 * step, "train/loss": step / 7, "train/lr": 0.1} for step in range(first, end)
    ]


def wait_for(what: Callable[[], bool], timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_and_its_continuation_are_one_curve_that_is_its_record(
    mlflow: MlflowServer, images: Path, tmp_path: Path, said: list[str]
) -> None:
    pretrain(tracked(images, tmp_path, "mlflow", max_steps=3))
    pretrain(tracked(images, tmp_path, "mlflow", max_steps=6), say=said.append)
    (run,) = mlflow.runs
    record = metrics(tmp_path / "run")
    assert len(record) == 6
    for name in ("train/loss", "perf/images_per_s", "train/lr", "world_size"):
        assert mlflow.points(name) == [(line["step"], pytest.approx(line[name], rel=1e-12)) for line in record]
    assert [step for step, _ in mlflow.points("eval/knn_top1")] == [0, 3, 6]
    assert run["info"]["status"] == "FINISHED" and run["info"]["run_name"] == "run"
    params = {param["key"]: param["value"] for param in run["params"]}
    assert params["optim.lr"] == "0.1" and params["method.name"] == "moco" and params["images"] == "191"
    assert len(params) == len(run["params"])
    assert any(mlflow.url in line and "MLflow follows" in line for line in said)
    assert not children()


@pytest.mark.slow
def test_a_finished_run_is_sent_by_the_same_command(mlflow: MlflowServer, images: Path, tmp_path: Path) -> None:
    pretrain(tiny_config(images, tmp_path, max_steps=3, log_every_steps=1))
    assert not mlflow.runs
    pretrain(tracked(images, tmp_path, "mlflow", max_steps=3))
    pretrain(tracked(images, tmp_path, "mlflow", max_steps=3))
    assert mlflow.points("train/loss") == [(line["step"], line["train/loss"]) for line in metrics(tmp_path / "run")]
    assert [step for step, _ in mlflow.points("eval/knn_top1")] == [0, 3]


@pytest.mark.parametrize("mode", ["error", pytest.param("silent", marks=pytest.mark.slow)])
def test_a_server_that_comes_back_gets_what_it_missed(
    mode: str, mlflow: MlflowServer, images: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    follower, _ = follow(tracked(images, tmp_path, "mlflow"))
    follower.commit(lines(0, 2), [])
    # Nothing is in the record, so what was committed before the tracker was open is not there to be read.
    wait_for(lambda: any("follows this run" in line for line in said))
    follower.commit(lines(2, 4), [])
    wait_for(lambda: [step for step, _ in mlflow.points("train/loss")][-1:] == [3])
    mlflow.mode = mode
    for first in range(4, 40, 4):
        follower.commit(lines(first, first + 4), [{"step": first, "eval/knn_top1": 1.0}])
    wait_for(lambda: any("cannot be reached" in line for line in said))
    mlflow.mode = "ok"
    follower.close(is_done=True)
    assert [step for step, _ in mlflow.points("train/loss")] == list(range(2, 40))
    assert [step for step, _ in mlflow.points("eval/knn_top1")] == [*range(4, 40, 4)]
    told = [line for line in said if "reached" in line]
    assert len(told) == 2 and told[0].startswith("warning: MLflow cannot be reached") and "again" in told[1]


@pytest.mark.slow
def test_a_batch_that_arrived_without_an_answer_is_not_sent_twice(
    mlflow: MlflowServer, images: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, lost = mlflow.answer, []

    def lose_first(name: str, asked: dict[str, Any]) -> dict[str, Any]:
        result = answer(name, asked)
        if name == "runs/log-batch" and "metrics" in asked and not lost:
            lost.append(name)
            time.sleep(4)  # longer than the client waits
        return result

    monkeypatch.setattr(mlflow, "answer", lose_first)
    follower, _ = follow(tracked(images, tmp_path, "mlflow"))
    wait_for(lambda: any("follows this run" in line for line in said))
    follower.commit(lines(0, 3), [])
    follower.close(is_done=True)
    assert lost and [step for step, _ in mlflow.points("train/loss")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("tracker", "dead"),
    [
        ("mlflow", closed_port),
        ("wandb", silent_port),
        ("trackio", closed_port),
        pytest.param("trackio", silent_port, marks=pytest.mark.slow),
        pytest.param("mlflow", silent_port, marks=pytest.mark.slow),
        pytest.param("wandb", closed_port, marks=pytest.mark.slow),
    ],
)
def test_a_run_ends_soon_and_says_what_is_missing_where_nobody_answers(
    tracker: str,
    dead: Callable[[], AbstractContextManager[str]],
    images: Path,
    tmp_path: Path,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follower_module, "_LAST_WAIT_S", 3.0)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with dead() as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("TRACKIO_SERVER_URL", url)
        monkeypatch.setenv("TRACKIO_WRITE_TOKEN", "0" * 40)
        follower, _ = follow(tracked(images, tmp_path, tracker))
        follower.commit(lines(0, 3), [])
        began_s = time.monotonic()
        follower.close(is_done=True)
    assert time.monotonic() - began_s < 6
    assert "did not take" in said[-1] and "the same command sends them" in said[-1]
    assert not children()


@pytest.mark.slow
def test_a_process_that_dies_is_started_again_and_reads_the_record(
    mlflow: MlflowServer, images: Path, tmp_path: Path, said: list[str]
) -> None:
    follower, _ = follow(tracked(images, tmp_path, "mlflow"))
    wait_for(lambda: any("follows this run" in line for line in said))
    storage = follower._storage
    for first in (0, 2):
        content = "".join(metrics_line(line) for line in lines(first, first + 2)).encode()
        storage.write_bytes(storage.join("metrics", f"{first:09d}-{first + 1:09d}.jsonl"), content)
        follower.commit(lines(first, first + 2), [])
        if first == 0:
            (child,) = children()
            child.kill()
    follower.close(is_done=True)
    assert [step for step, _ in mlflow.points("train/loss")] == [0, 1, 2, 3]
    assert sum("tried again" in line for line in said) == 1


def test_a_package_that_a_node_lacks_is_said_and_training_goes_on(
    images: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packages" / "wandb").mkdir(parents=True)
    (tmp_path / "packages" / "wandb" / "__init__.py").write_text("raise ImportError('broken here')")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    follower, _ = follow(tracked(images, tmp_path / "runs", "wandb"))
    wait_for(lambda: any("broken here" in line and "training goes on" in line for line in said))
    follower.commit(lines(0, 2), [])
    follower.close(is_done=True)
    assert len([line for line in said if "broken" in line]) == 1 and not children()
