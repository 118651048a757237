"""The images of a sweep: listed once, found again where they have moved, and never others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.sweep.config import SweepConfig
from moco_ray.sweep.space import parse_space
from moco_ray.sweep.sweep import _prepare, sweep
from moco_ray.worker.console import said_by
from tests.sweep.sweeps import sweep_config


def test_a_sweep_goes_on_with_images_that_have_moved_and_not_with_others(images: Path, tmp_path: Path) -> None:
    here, there, other = (tmp_path / name for name in ("here", "there", "other"))
    for number in "01":
        shutil.copytree(images / number, here / number)
    storage = Storage.open(str(tmp_path / "sweep"), StorageOptions({}))

    def prepare(uri: Path) -> str:
        config = sweep_config(uri, tmp_path)
        said.clear()
        with said_by(said.append):
            state = _prepare(SweepConfig(), config, parse_space((), config), storage, is_dry=False)
        assert state.manifest.uri(0).startswith(str(uri))
        return state.manifest.digest

    said: list[str] = []
    digest = prepare(here)
    assert prepare(here) == digest and not any("listing" in line for line in said)
    here.rename(there)
    assert prepare(there) == digest and any(f"lie in {there} now" in line for line in said)
    assert prepare(there) == digest and not any("listing" in line for line in said)
    assert str(there) in json.loads((tmp_path / "sweep" / "sweep.json").read_text())["config"]
    shutil.copytree(there, other)
    next(other.glob("1/*.png")).unlink()
    with pytest.raises(ValueError, match=r"1 removed \(1/.*--run\.name"):
        prepare(other)


def test_a_sweep_refuses_to_list_anew(images: Path, tmp_path: Path) -> None:
    config = sweep_config(images, tmp_path)
    config = replace(config, data=replace(config.data, relist=True))
    with pytest.raises(ValueError, match=r"--data\.relist: .*--run\.name"):
        sweep(SweepConfig(), config, say=lambda line: None)
