"""A run that is killed and resumed, in real trackers on a disk: one curve, every step once, the values of its record."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from moco_ray.config import to_json
from moco_ray.worker.trackers.mlflow_run import make_database
from moco_ray.worker.trackers.wandb_files import rows_on_disk
from tests.killing import kill_all, newest_step, start_job, wait_for_step
from tests.runs import metrics, tiny_config
from tests.worker.trackers.trackio_rows import trackio_configs, trackio_rows

JOB = str(Path(__file__).parents[3] / "jobs" / "pretrain.py")
SECRET = "tell-nobody-123"


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a run in this folder is tracked by MLflow; made before, as that takes long."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    make_database(uri)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("WANDB_API_KEY", SECRET * 3)
    monkeypatch.setenv("TRACKIO_WRITE_TOKEN", SECRET)
    monkeypatch.setenv("TRACKIO_WEBHOOK_URL", f"http://127.0.0.1:9/{SECRET}")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    return uri


def key(folder: Path) -> str:
    return str(json.loads((folder / "run" / "tracking.json").read_text())["key"])


def least_sent(folder: Path) -> int:
    """Rows of whichever of the two is behind that tell of each."""
    if not (folder / "run" / "tracking.json").exists():
        return 0
    return min(len(rows_on_disk(folder / "run", key(folder))), len(trackio_rows(folder / "trackio")))


def kill_after(job: subprocess.Popen[bytes], folder: Path, step: int, rows: int) -> None:
    """Kill all of it after that checkpoint, and when so much has been sent."""
    wait_for_step(job, folder, step)
    deadline = time.monotonic() + 120
    while least_sent(folder) < rows:
        assert time.monotonic() < deadline and job.poll() is None, (folder / "job.log").read_text()[-3000:]
        time.sleep(0.05)
    kill_all(job)


def check_mlflow(uri: str, record: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> None:
    client = MlflowClient(uri)
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    for name, lines in (("train/loss", record), ("perf/images_per_s", record), ("eval/rankme", evaluations)):
        points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        assert sorted(points) == [(line["step"], line[name]) for line in lines], name
    assert run.info.status == "FINISHED" and run.data.tags["moco_ray.preset"] == "smoke"


def check_wandb(folder: Path, record: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> None:
    rows = rows_on_disk(folder / "run", key(folder))
    assert len(list((folder / "run" / "wandb").glob("offline-run-*"))) == 2
    counted = [row["_step"] for row in rows]
    assert counted == sorted(set(counted))
    of_steps, of_evaluations = ([row for row in rows if name in row] for name in ("step", "eval/step"))
    for name in ("train/loss", "perf/images_per_s"):
        assert [(row["step"], row[name]) for row in of_steps] == [(line["step"], line[name]) for line in record], name
    assert [(row["eval/step"], row["eval/rankme"]) for row in of_evaluations] == [
        (line["step"], line["eval/rankme"]) for line in evaluations
    ]


def check_trackio(folder: Path, record: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> None:
    rows = trackio_rows(folder / "trackio", key(folder))
    for name, lines in (("train/loss", record), ("perf/images_per_s", record), ("eval/rankme", evaluations)):
        points = [(step, values[name]) for step, values in rows if name in values]
        assert points == [(line["step"], line[name]) for line in lines], name
    (settings,) = trackio_configs(folder / "trackio")
    assert settings["preset"] == "smoke" and settings["optim.lr"] == 0.1


@pytest.mark.slow
def test_a_killed_run_goes_on_as_one_curve_that_is_its_record(database: str, images: Path, tmp_path: Path) -> None:
    config = tiny_config(
        images, tmp_path, track=("mlflow", "wandb", "trackio"), log_every_steps=1, checkpoint_every_steps=4
    )
    config = replace(config, optim=replace(config.optim, epochs=8))
    (tmp_path / "config.json").write_text(to_json(config))
    first = start_job(JOB, tmp_path / "config.json", tmp_path, 0)
    kill_after(first, tmp_path, 8, rows=4)
    killed_at = newest_step(tmp_path)
    second = start_job(JOB, tmp_path / "config.json", tmp_path, 0)
    assert second.wait(timeout=300) == 0, (tmp_path / "job.log").read_text()[-3000:]
    record = metrics(tmp_path / "run")
    evaluations = [json.loads(line) for line in (tmp_path / "run" / "eval.jsonl").read_text().splitlines()]
    assert killed_at < len(record) == 64 and len(evaluations) >= 2
    check_mlflow(database, record, evaluations)
    check_wandb(tmp_path, record, evaluations)
    check_trackio(tmp_path, record, evaluations)
    check_no_secret(tmp_path)


def check_no_secret(folder: Path) -> None:
    """No key that the trackers were given stands in the run's folder, the trackers' own files or what was printed."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_relative_to(folder / "home" / ".netrc"):
            assert SECRET.encode() not in path.read_bytes(), path


def test_rows_of_a_file_that_a_killed_process_has_begun_are_read_as_far_as_they_are_whole(tmp_path: Path) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    def record(step: int) -> bytes:
        made = Record()
        made.history.item.add(key="step", value_json=str(step))
        made.history.item.add(key="text", value_json=json.dumps("x" * 20_000))
        return bytes(made.SerializeToString())

    content = b":W&B\xe1\xbe\x00"
    for step in range(4):
        rest, kind = record(step), 1
        is_first = True
        while rest:
            left = 32768 - len(content) % 32768
            if left < 7:
                content += bytes(left)
                continue
            part, rest = rest[: left - 7], rest[left - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[is_first, not rest]
            content += bytes(4) + len(part).to_bytes(2, "little") + bytes([kind]) + part
            is_first = False
    file = tmp_path / "wandb" / "offline-run-1-abc" / "run-abc.wandb"
    file.parent.mkdir(parents=True)
    for cut, steps in ((0, [0, 1, 2, 3]), (1, [0, 1, 2]), (30_000, [0, 1])):
        file.write_bytes(content[: len(content) - cut])
        assert [row["step"] for row in rows_on_disk(tmp_path, "abc")] == steps
    assert rows_on_disk(tmp_path, "other") == []
