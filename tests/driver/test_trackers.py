"""Which trackers follow a run, and how they are reached: what is found out before anything starts."""

from __future__ import annotations

import importlib.util
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from moco_ray.cli.pretrain import main
from moco_ray.cli.sweep import main as sweep_main
from moco_ray.config import from_json, to_json
from moco_ray.driver.plan import open_run
from moco_ray.driver.trackers import tracker_accesses
from moco_ray.tasks.tracker import TrackerAccess
from tests.runs import tiny_config
from tests.s3 import S3Server


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "WANDB_", "TRACKIO_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def access(folder: Path | str, *trackers: Any) -> tuple[TrackerAccess, ...]:
    config = tiny_config("images", folder, track=trackers)
    return tracker_accesses(config, open_run(config))


def test_without_a_server_mlflow_keeps_all_runs_of_a_folder_in_one_database(tmp_path: Path) -> None:
    (one,) = access(tmp_path, "mlflow", "mlflow")
    assert one.environment == {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}


def test_what_the_environment_says_of_a_tracker_comes_along_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tell-nobody")
    monkeypatch.setenv("MLFLOW_RUN_ID", "another run's")
    monkeypatch.setenv("WANDB_API_KEY", "tell-nobody-either")
    monkeypatch.setenv("WANDB_PROJECT", "leaves")
    mlflow, wandb = access(tmp_path, "mlflow", "wandb")
    assert mlflow.environment == {"MLFLOW_TRACKING_URI": "http://host:5000", "MLFLOW_TRACKING_TOKEN": "tell-nobody"}
    assert wandb.environment["WANDB_API_KEY"] == "tell-nobody-either" and wandb.environment["WANDB_PROJECT"] == "leaves"
    assert wandb.environment["WANDB_DIR"] == f"{tmp_path}/run"
    assert "tell-nobody" not in f"{mlflow!r} {wandb}"
    assert pickle.loads(pickle.dumps(wandb)) == wandb


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ("sqlite:///here.db", "sqlite:///{}/here.db"),
        ("sqlite:////shared/here.db", "sqlite:////shared/here.db"),
        ("./mlruns", "{}/mlruns"),
        ("/shared/mlruns", "/shared/mlruns"),
        ("file:mlruns", "file://{}/mlruns"),
        ("file:./mlruns", "file://{}/mlruns"),
        ("file:/shared/mlruns", "file:///shared/mlruns"),
        ("file:///shared/mlruns", "file:///shared/mlruns"),
        ("http://host:5000", "http://host:5000"),
        ("postgresql+psycopg2://host/runs", "postgresql+psycopg2://host/runs"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
    ],
)
def test_a_place_on_a_disk_is_named_by_its_whole_path(
    given: str, passed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert access("runs", "mlflow")[0].environment["MLFLOW_TRACKING_URI"] == passed.format(tmp_path)


def test_the_key_of_wandb_is_that_of_its_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"run.track wandb finds no key .*WANDB_MODE=offline"):
        access(tmp_path, "wandb")
    (tmp_path / "home").mkdir()
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text("machine api.wandb.ai\n  login user\n  password of-the-login\n")
    netrc.chmod(0o600)
    assert access(tmp_path, "wandb")[0].environment["WANDB_API_KEY"] == "of-the-login"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    with pytest.raises(ValueError, match="finds no key"):
        access(tmp_path, "wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "WANDB_API_KEY" not in access(tmp_path, "wandb")[0].environment


def test_the_server_of_a_login_comes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "home" / ".config" / "wandb" / "settings"
    settings.parent.mkdir(parents=True)
    settings.write_text("[default]\nbase_url = https://wandb.example.org\n")
    with pytest.raises(ValueError, match="finds no key"):
        access(tmp_path, "wandb")
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text("machine wandb.example.org\n  login user\n  password of-the-login\n")
    netrc.chmod(0o600)
    environment = access(tmp_path, "wandb")[0].environment
    assert environment["WANDB_BASE_URL"] == "https://wandb.example.org"
    assert environment["WANDB_API_KEY"] == "of-the-login"
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "settings").write_text("[default]\napi_key = of%the%settings\n")
    environment = access(tmp_path, "wandb")[0].environment
    assert environment["WANDB_API_KEY"] == "of%the%settings" and "WANDB_BASE_URL" not in environment
    monkeypatch.setenv("WANDB_API_KEY", "of-the-environment")
    assert access(tmp_path, "wandb")[0].environment["WANDB_API_KEY"] == "of-the-environment"


def test_on_an_object_store_it_must_be_said_where_runs_are_tracked(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = f"s3://{s3.bucket}/runs"
    with pytest.raises(ValueError, match="set MLFLOW_TRACKING_URI to the address"):
        access(folder, "mlflow")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(ValueError, match="set WANDB_DIR to one that all nodes share"):
        access(folder, "wandb")
    with pytest.raises(ValueError, match="set TRACKIO_SERVER_URL and TRACKIO_WRITE_TOKEN to those"):
        access(folder, "trackio")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host")
    monkeypatch.setenv("WANDB_DIR", "/shared")
    assert [one.title for one in access(folder, "mlflow", "wandb")] == ["MLflow", "Weights & Biases"]


def test_without_a_server_trackio_keeps_all_runs_of_a_folder_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_WEBHOOK_URL", "http://chat")
    monkeypatch.setenv("TRACKIO_STORAGE_MODE", "jsonl")
    monkeypatch.setenv("HF_TOKEN", "tell-nobody")
    (one,) = access(tmp_path, "trackio")
    assert one.title == "Trackio"
    assert one.environment == {"TRACKIO_DIR": f"{tmp_path}/trackio", "TRACKIO_STORAGE_MODE": "sqlite"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", "mine")
    assert access("runs", "trackio")[0].environment["TRACKIO_DIR"] == f"{tmp_path}/mine"


def test_a_server_of_trackio_gets_the_key_that_it_or_its_address_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "of-another-service")
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://host:7860")
    with pytest.raises(ValueError, match=r"trackio finds no key .* set TRACKIO_WRITE_TOKEN"):
        access(tmp_path, "trackio")
    wanted = {"TRACKIO_SERVER_URL": "http://host:7860", "TRACKIO_WRITE_TOKEN": "tell-nobody"}
    monkeypatch.setenv("TRACKIO_WRITE_TOKEN", "tell-nobody")
    assert access(tmp_path, "trackio")[0].environment == wanted
    monkeypatch.delenv("TRACKIO_WRITE_TOKEN")
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://host:7860?write_token=tell-nobody")
    assert access(tmp_path, "trackio")[0].environment == wanted
    monkeypatch.setenv("TRACKIO_SERVER_URL", "https://someone-runs.hf.space")
    with pytest.raises(ValueError, match="set TRACKIO_SPACE_ID to user/space"):
        access(tmp_path, "trackio")
    monkeypatch.setenv("TRACKIO_SERVER_URL", "host:7860")
    with pytest.raises(ValueError, match="no address of a server"):
        access(tmp_path, "trackio")


def test_a_space_needs_its_whole_name_and_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_SPACE_ID", "runs")
    with pytest.raises(ValueError, match="whole name of a Space: user/space"):
        access(tmp_path, "trackio")
    monkeypatch.setenv("TRACKIO_SPACE_ID", "someone/runs")
    with pytest.raises(ValueError, match=r"no token for the Space someone/runs; set HF_TOKEN"):
        access(tmp_path, "trackio")
    monkeypatch.setenv("HF_TOKEN", "tell-nobody")
    (one,) = access(tmp_path, "trackio")
    assert one.environment == {"TRACKIO_SPACE_ID": "someone/runs", "HF_TOKEN": "tell-nobody"}
    assert "tell-nobody" not in f"{one!r} {one}"


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_a_package_that_is_missing_is_named_before_anything_is_looked_at(
    flags: list[str], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else find(name))
    arguments = ["--preset", "smoke", "--data.uri", str(images), "--run.num-workers", "0", "--run.name", "run"]
    code = main([*arguments, "--run.storage-path", str(tmp_path / "runs"), "--run.track", "mlflow", *flags])
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert code == 2 and "pip install 'moco_ray[track]'" in said
    assert not (tmp_path / "runs" / "run" / "config.json").exists()


def test_an_unknown_tracker_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data.uri", "images", "--run.track", "tensorboard"]) == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "--run.track is tensorboard; use one or more of mlflow, wandb, trackio" in said


def test_a_configuration_remembers_its_trackers(tmp_path: Path) -> None:
    config = tiny_config("images", tmp_path, track=("wandb", "mlflow"))
    assert from_json(to_json(config)) == config


def test_a_sweep_is_not_tracked(capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path) -> None:
    arguments = ["--data.uri", str(images), "--run.storage-path", str(tmp_path), "--space", "optim.lr=0.1,0.2"]
    assert sweep_main([*arguments, "--preset", "smoke", "--run.track", "mlflow"]) == 2
    assert "--run.track follows a run of its own" in " ".join(capsys.readouterr().err.replace("│", " ").split())
