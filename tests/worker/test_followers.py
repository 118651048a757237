from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from moco_ray.driver.run import pretrain
from moco_ray.run_folder.checkpoint import CheckpointStore
from moco_ray.run_folder.metrics import Line
from moco_ray.worker.follower import Follower
from moco_ray.worker.followers import Followers
from tests.runs import losses, metrics, tiny_config


class Noting(Follower):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.committed: list[Line] = []

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self.told.append(step)

    def commit(self, lines: Sequence[Line], evaluations: Sequence[Line]) -> None:
        self.committed += lines

    def files(self) -> dict[str, bytes]:
        return {"noted": b"1"}

    def close(self, *, is_done: bool) -> None:
        self.told.append("done" if is_done else "left")


class Failing(Follower):
    """Fails at everything."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        raise RuntimeError("no room at https://user:secret@example.org/x?token=secret")

    def commit(self, lines: Sequence[Line], evaluations: Sequence[Line]) -> None:
        raise MemoryError

    def files(self) -> dict[str, bytes]:
        raise OSError

    def close(self, *, is_done: bool) -> None:
        raise KeyError


def unmakable() -> Follower:
    raise ImportError("no such package")


def test_one_that_fails_is_said_once_without_secrets_and_the_others_go_on(said: list[str]) -> None:
    good = Noting()
    followers = Followers({"none": unmakable, "bad": Failing, "good": lambda: good})
    for step in range(3):
        followers.add(step, {"train/loss": 1.0})
        followers.commit([{"step": step}], [])
    assert followers.files() == {"noted": b"1"}
    followers.close(is_done=True)
    followers.close(is_done=False)
    assert good.told == [0, 1, 2, "done"] and [line["step"] for line in good.committed] == [0, 1, 2]
    assert [line.split(" ")[1] for line in said] == ["none", "bad"]
    assert "secret" not in "".join(said) and said[1].endswith("training goes on")


@pytest.mark.parametrize("method", ["add", "commit", "files", "close"])
def test_one_that_fails_at_any_time_is_left_behind(method: str, said: list[str]) -> None:
    followers = Followers({"bad": Failing})
    arguments: dict[str, tuple[Any, ...]] = {"add": (0, {}), "commit": ([], [])}
    keywords = {"is_done": True} if method == "close" else {}
    getattr(followers, method)(*arguments.get(method, ()), **keywords)
    assert len(said) == 1 and not followers._followers


def test_a_run_tells_its_followers_every_committed_line_once_and_trains_as_without(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noting = Noting()
    with monkeypatch.context() as patch:
        patch.setattr(
            "moco_ray.worker.folder_recorder.followers_of",
            lambda *run: Followers({"bad": Failing, "noting": lambda: noting}),
        )
        pretrain(tiny_config(images, tmp_path, max_steps=5, checkpoint_every_steps=2, log_every_steps=1))
    assert noting.told == [0, 0, 1, 2, 3, 4, 5, "done"]  # two evaluations
    assert noting.committed == metrics(tmp_path / "run")
    pretrain(tiny_config(images, tmp_path / "other", max_steps=5, checkpoint_every_steps=2, log_every_steps=1))
    assert (losses(tmp_path / "run") == losses(tmp_path / "other" / "run")).all()


def test_a_checkpoint_that_cannot_be_deleted_at_once_is_told_once(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noting, prune, failed = Noting(), CheckpointStore.prune, []

    def fail_once(store: CheckpointStore, **keep: Any) -> None:
        if not failed:
            failed.append(store)
            raise OSError("busy")
        prune(store, **keep)

    monkeypatch.setattr(CheckpointStore, "prune", fail_once)
    monkeypatch.setattr(
        "moco_ray.worker.folder_recorder.followers_of", lambda *run: Followers({"noting": lambda: noting})
    )
    pretrain(tiny_config(images, tmp_path, max_steps=4, checkpoint_every_steps=2, log_every_steps=1))
    assert failed and noting.committed == metrics(tmp_path / "run")
