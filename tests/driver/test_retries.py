"""`run.retries`: what has failed for good is tried again in the same process; what the user must mend is not."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from moco_ray.cli.pretrain import main
from moco_ray.config import Config, to_json
from moco_ray.config.patience import Patience
from moco_ray.data.stream import DataUnavailable
from moco_ray.driver import run
from moco_ray.storage import storage
from tests.runs import digests, losses, tiny_config

pretrain = partial(run.pretrain, patience=Patience(finish=0.5, retry=0.1, lease_watch=0.5, lease_look=0.1))
STEPS = 60  # more than is read ahead at the first step


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenths of a second of patience instead of minutes."""
    monkeypatch.setattr(storage, "_PATIENCE_S", 0.5)


@pytest.fixture
def own_images(images: Path, tmp_path: Path) -> Path:
    """A link to images, which a test may break."""
    _point(tmp_path / "images", images)
    return tmp_path / "images"


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run without a failure."""
    return Path(pretrain(_config(images, tmp_path_factory.mktemp("runs"), retries=0), say=_quiet).folder)


def _quiet(line: str) -> None:
    pass


def _point(link: Path, target: Path) -> None:
    """Let a link lead somewhere, at once: nobody finds nothing there."""
    new = link.with_name("new")
    new.symlink_to(target)
    new.rename(link)


def _break(link: Path) -> None:
    """Let every access to a folder fail as that of a broken mount does: with an error that may pass."""
    _point(link, link)  # leads to itself


def _config(uri: Path, folder: Path, retries: int) -> Config:
    config = tiny_config(uri, folder, max_steps=STEPS, checkpoint_every_steps=10, retries=retries)
    return replace(config, optim=replace(config.optim, epochs=8))


def _breaking(path: Path, said: list[str], mend_at: str) -> Callable[[str], None]:
    """A `say` that breaks a link after the first step, and mends it at a certain line."""
    images = path.readlink()

    def say(line: str) -> None:
        is_first = not any(before.startswith("step 1/") for before in said)
        said.append(line)
        if is_first and line.startswith("step 1/"):
            _break(path)
        if mend_at in line:
            _point(path, images)

    return say


def test_data_that_cannot_be_read_for_a_while_does_not_end_a_run(
    own_images: Path,
    tmp_path: Path,
    undisturbed: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG, "moco_ray.worker.loop")
    monkeypatch.setattr(logging.getLogger("moco_ray.worker.loop"), "handlers", [caplog.handler])
    said: list[str] = []
    pretrain(_config(own_images, tmp_path, retries=1), say=_breaking(own_images, said, "(retry 1 of run.retries 1)"))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(undisturbed), rtol=1e-9)
    assert digests(tmp_path / "run") == digests(undisturbed)
    assert sum("trying again in" in line for line in said) == 1
    (interruption,) = (tmp_path / "run" / "interruptions.jsonl").read_text().splitlines()
    steps_in_all = sum(record.getMessage().startswith("step ") for record in caplog.records)
    assert json.loads(interruption)["steps_redone"] == steps_in_all - STEPS


def test_after_the_last_retry_the_failure_is_raised_and_the_next_command_goes_on(
    own_images: Path, images: Path, tmp_path: Path, undisturbed: Path
) -> None:
    said: list[str] = []
    with pytest.raises(DataUnavailable, match="images"):
        pretrain(_config(own_images, tmp_path, retries=1), say=_breaking(own_images, said, "never"))
    assert sum("trying again in" in line for line in said) == 1
    _point(own_images, images)
    pretrain(_config(own_images, tmp_path, retries=0), say=_quiet)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(undisturbed), rtol=1e-9)


def _exit_code(config: Config, folder: Path, break_data: Callable[[], None]) -> int:
    """Exit code of a run that loses its data between two sessions."""
    pretrain(replace(config, run=replace(config.run, max_steps=2)), say=_quiet)
    break_data()
    (folder / "config.json").write_text(to_json(config))
    return main(["--preset", str(folder / "config.json"), "--run.name", "run"])


def test_data_that_cannot_be_read_now_exits_with_1(
    own_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _exit_code(_config(own_images, tmp_path, retries=1), tmp_path, lambda: _break(own_images)) == 1
    assert "trying again in" in capsys.readouterr().out


def test_a_loss_that_is_no_number_is_not_tried_again(images: Path, tmp_path: Path) -> None:
    config = _config(images, tmp_path, retries=3)
    said: list[str] = []
    with pytest.raises(ValueError, match="training has diverged"):
        pretrain(replace(config, optim=replace(config.optim, lr=1e300)), say=said.append)
    assert not [line for line in said if "trying again" in line]
