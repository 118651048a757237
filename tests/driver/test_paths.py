from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from moco_ray.config import Config
from moco_ray.driver.paths import check_paths
from moco_ray.driver.run import pretrain
from moco_ray.storage.storage import Storage, resolve_storage_options
from moco_ray.worker.start import check_visible
from tests.runs import tiny_config


def _with(config: Config, field: str, value: str) -> Config:
    group, name = field.split(".")
    name = name.replace("-", "_")
    return replace(config, **{group: replace(getattr(config, group), **{name: value})})


@pytest.mark.parametrize(
    "field", ["run.storage-path", "data.uri", "eval.uri", "detection.annotations", "detection.test-annotations"]
)
@pytest.mark.parametrize("value", ["s3://<BUCKET>/images", "<FOLDER>", "s3://bucket/<your-name>"])
def test_a_placeholder_that_was_left_is_refused_before_anything_else(field: str, value: str, tmp_path: Path) -> None:
    lines: list[str] = []
    config = _with(tiny_config(tmp_path / "images", tmp_path / "runs"), field, value)
    with pytest.raises(ValueError, match=re.escape(f"{field} {value} still has a placeholder in it; write your own")):
        pretrain(config, say=lines.append)
    assert not lines and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("value", ["s3://bucket/images", "runs", "/a<b", "a>b", "s3://bucket/a>b"])
def test_other_paths_are_taken(value: str, tmp_path: Path) -> None:
    check_paths(_with(tiny_config(tmp_path, tmp_path), "data.uri", value))


def test_a_worker_that_does_not_see_the_runs_folder_says_so(tmp_path: Path) -> None:
    run = Storage.open(str(tmp_path / "run"), resolve_storage_options(str(tmp_path), None))
    with pytest.raises(
        ValueError, match=r"run cannot be seen from the node \S+, where a worker runs; use a run.storage-path"
    ):
        check_visible(run)
    run.write_bytes(run.join("config.json"), b"{}")
    check_visible(run)
