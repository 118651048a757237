"""Runs in Trackio: on a disk, and on a server of it that goes away and comes back."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from moco_ray.worker.trackers.follower import TrackerFollower
from tests.worker.trackers.test_follower import follow, lines, tracked, wait_for
from tests.worker.trackers.trackio_rows import trackio_configs, trackio_rows

KEY = "tell-nobody-123"
SERVE = "import trackio; trackio.show(open_browser=False, block_thread=True)"


@contextmanager
def trackio_server(folder: Path, port: int) -> Iterator[str]:
    """A server of Trackio that keeps what it gets in a folder."""
    environment = {
        **os.environ,
        "TRACKIO_DIR": str(folder),
        "TRACKIO_WRITE_TOKEN": KEY,
        "GRADIO_SERVER_PORT": f"{port}",
    }
    environment.pop("TRACKIO_SERVER_URL", None)
    process = subprocess.Popen([sys.executable, "-c", SERVE], env=environment, stdout=subprocess.DEVNULL)
    try:

        def answers() -> bool:
            assert process.poll() is None
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", port)) == 0

        wait_for(answers)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("TRACKIO_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def steps(rows: list[tuple[int, dict[str, Any]]], name: str) -> list[int]:
    return [step for step, values in rows if name in values]


def evaluation(step: int) -> dict[str, Any]:
    return {"step": step, "eval/knn_top1": step / 3}


def test_a_point_is_there_once_however_often_it_is_sent(images: Path, tmp_path: Path, said: list[str]) -> None:
    follower, job = follow(tracked(images, tmp_path, "trackio"))
    for first, end, late in ((0, 4, 4), (2, 8, 2)):
        if first:
            follower = TrackerFollower(job.trackers[0], job, follower._storage, 0)
        wait_for(lambda: any("follows this run" in line for line in said))
        follower.commit(
            [*lines(first, end), {**lines(end, end + 1)[0], "train/loss": float("nan")}],
            [evaluation(0), evaluation(late)],
        )
        wait_for(lambda end=end: steps(trackio_rows(tmp_path / "trackio"), "train/loss")[-1:] == [end])
        follower.close(is_done=False)
        assert f"TRACKIO_DIR={tmp_path}/trackio trackio show --project moco_ray" in said[-1]
        said.clear()
    rows = trackio_rows(tmp_path / "trackio")
    assert steps(rows, "train/loss") == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert steps(rows, "eval/knn_top1") == [0, 4, 2]
    assert [values["train/loss"] for step, values in rows if step == 6 and "train/loss" in values] == [6 / 7]
    (settings,) = trackio_configs(tmp_path / "trackio")
    assert settings["optim.lr"] == 0.1 and settings["preset"] == "smoke" and settings["images"] == 191


@pytest.mark.slow
def test_a_server_that_comes_back_gets_what_it_missed(
    images: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "server"
    monkeypatch.setenv("TRACKIO_SERVER_URL", f"http://127.0.0.1:{port}/?write_token={KEY}")
    with trackio_server(folder, port):
        follower, job = follow(tracked(images, tmp_path, "trackio"))
        wait_for(lambda: any("follows this run" in line for line in said))
        follower.commit(lines(0, 4), [evaluation(0)])
        wait_for(lambda: steps(trackio_rows(folder), "train/loss")[-1:] == [3])
    for first in range(4, 40, 4):
        follower.commit(
            [*lines(first, first + 3), {**lines(first + 3, first + 4)[0], "train/loss": float("nan")}],
            [evaluation(first)],
        )
    wait_for(lambda: any("cannot be reached" in line for line in said))
    with trackio_server(folder, port):
        wait_for(lambda: any("can be reached again" in line for line in said))
        follower.close(is_done=True)
        again = TrackerFollower(job.trackers[0], job, follower._storage, 0)
        wait_for(lambda: sum("follows this run" in line for line in said) == 2)
        again.commit(lines(30, 42), [evaluation(36), evaluation(40)])
        again.close(is_done=True)
    rows = trackio_rows(folder)
    assert steps(rows, "train/loss") == list(range(42))
    assert steps(rows, "eval/knn_top1") == [*range(0, 44, 4)]
    assert len(trackio_configs(folder)) == 1
    assert not any(KEY in line for line in said) and not (tmp_path / "trackio").exists()
