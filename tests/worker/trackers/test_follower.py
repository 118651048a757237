"""Trackers that answer, do not answer, and answer again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
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
from moco_ray.worker.trackers import process as process_module
from moco_ray.worker.trackers.card import Card, Point
from moco_ray.worker.trackers.follower import TrackerFollower
from moco_ray.worker.trackers.mlflow_run import MlflowRun
from moco_ray.worker.trackers.wandb_files import rows_on_disk
from moco_ray.worker.trackers.wandb_run import WandbRun
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
    follower.commit(lines(2, 4), [])  # again, which changes nothing
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


def evaluation(step: int) -> Point:
    return {"step": step, "values": {"eval/rankme": step / 7}}


def test_an_evaluation_that_comes_late_is_there_once(mlflow: MlflowServer) -> None:
    card = Card(key="k", name="n", folder="f", tags={}, params={})
    first, second = MlflowRun(card), MlflowRun(card)
    first.open()
    first.send([evaluation(0), evaluation(200)])
    first.look()
    first.send([evaluation(100), evaluation(200)])
    second.open()
    second.send([evaluation(step) for step in (0, 100, 150, 200)])
    assert [step for step, _ in mlflow.points("eval/rankme")] == [0, 200, 100, 150]


@pytest.mark.slow
def test_an_evaluation_that_comes_late_is_on_the_disk_of_wandb_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for steps in ([0, 200, 100], [0, 100, 150, 200]):
        run = WandbRun(Card(key="k", name="n", folder="f", tags={}, params={}))
        run.open()
        run.send([{"step": 300, "values": {"train/loss": 1.0, "train/lr": 0.1}}, *map(evaluation, steps)])
        run.finish(is_done=True)
        time.sleep(1.1)  # folders are named by the second
    rows = rows_on_disk(tmp_path, "k")
    assert [row["eval/step"] for row in rows if "eval/step" in row] == [0, 200, 100, 150]
    assert [row["step"] for row in rows if "step" in row] == [300] and [row["_step"] for row in rows] == [*range(5)]


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
def test_a_finished_run_waits_for_as_long_as_its_points_are_taken(
    mlflow: MlflowServer, images: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "_LAST_WAIT_S", 1.5)
    monkeypatch.setattr(follower_module, "_TELL_EVERY_S", 1.0)
    answer = mlflow.answer

    def slowly(name: str, asked: dict[str, Any]) -> dict[str, Any]:
        if "metrics" in asked:
            time.sleep(0.6)
        return answer(name, asked)

    monkeypatch.setattr(mlflow, "answer", slowly)
    follower, _ = follow(tracked(images, tmp_path, "mlflow"))
    wait_for(lambda: any("follows this run" in line for line in said))
    began_s = time.monotonic()
    for first in range(0, 2500, 500):
        follower.commit(lines(first, first + 500), [])
    follower.close(is_done=True)
    assert time.monotonic() - began_s > 2.5
    assert [step for step, _ in mlflow.points("train/loss")] == list(range(2500))
    assert any("has taken" in line and "of 2,500 points" in line for line in said)
    assert not any("did not take" in line for line in said)


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


@pytest.mark.slow
def test_a_process_leaves_when_rank_0_dies_while_it_waits_for_a_server_that_is_away(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closed_port() as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
        card = {"key": "k", "name": "n", "folder": "f", "tags": {}, "params": {}}
        process = subprocess.Popen(
            [sys.executable, "-m", "moco_ray.worker.trackers.process", "mlflow"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f'{json.dumps(card)}\n{{"close": true}}\n')
        process.stdin.flush()
        try:
            assert "trouble" in process.stdout.readline()
            process.stdin.close()
            assert process.wait(timeout=10) == 1
        finally:
            process.kill()


def test_a_process_that_starts_while_the_run_is_closed_does_not_stay(
    images: Path, tmp_path: Path, mlflow: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, may_start = TrackerFollower._start, threading.Event()

    def late(follower: TrackerFollower, scratch: str) -> subprocess.Popen[str]:
        may_start.wait()
        return start(follower, scratch)

    monkeypatch.setattr(TrackerFollower, "_start", late)
    follower, _ = follow(tracked(images, tmp_path, "mlflow"))
    follower.close(is_done=False)
    may_start.set()
    wait_for(lambda: not any(thread.name == "mlflow" for thread in threading.enumerate()), 20)
    assert not children() and not mlflow.runs


def test_no_key_of_the_environment_is_in_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "DATABRICKS_TOKEN", "WANDB_API_KEY")
    for name in names:
        monkeypatch.setenv(name, f"tell nobody {name.lower()}")
    told = process_module._words(ValueError("; ".join(f"bad key: {os.environ[name]}" for name in names)))
    assert told == "ValueError: " + "; ".join(["bad key: …"] * 4)
