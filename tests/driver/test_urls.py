"""Runs on images behind http, in archives and in memory, equal to those on a disk; and on names of any bytes."""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from moco_ray.driver.run import pretrain
from tests.runs import digests, losses, tiny_config
from tests.web import web_server


def _quiet(line: str) -> None:
    pass


def test_runs_on_http_an_archive_and_memory_equal_the_run_on_a_disk(images: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in images.glob("*/*.png"):
            archive.write(path, f"digits/{path.relative_to(images)}")
    fs = fsspec.filesystem("memory")
    for path in images.glob("*/*.png"):
        fs.pipe_file(f"/digits/{path.relative_to(images)}", path.read_bytes())
    local = pretrain(tiny_config(images, tmp_path / "runs", max_steps=2), say=_quiet).folder
    with web_server(images) as address:
        for number, uri in enumerate((f"{address}/", f"zip://digits::{tmp_path}/all.zip", "memory://digits")):
            config = tiny_config(uri, tmp_path / "runs", max_steps=2, name=f"other{number}")
            folder = pretrain(config, say=_quiet).folder
            assert digests(folder) == digests(local), uri
            np.testing.assert_allclose(losses(folder), losses(local), rtol=1e-12)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "s3://bucket"])
def test_a_list_whose_images_lie_on_a_server_that_is_away_is_told_so_within_seconds(
    address: str, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text("uri\n" + "".join(f"{address}/{i}.png\n" for i in range(24)))
    options = json.dumps({"endpoint_url": "http://127.0.0.1:1", "key": "k", "secret": "s"})
    config = tiny_config(tmp_path / "list.csv", tmp_path / "runs", max_steps=1)
    config = replace(config, data=replace(config.data, storage_options=options if "s3" in address else None))
    start = time.monotonic()
    with pytest.raises((ValueError, OSError), match=r"127\.0\.0\.1:1"):
        pretrain(config, say=_quiet)
    assert time.monotonic() - start < 20


def test_memory_is_refused_where_other_processes_would_read_it(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"memory://digits.*--run.num-workers 0"):
        pretrain(tiny_config("memory://digits", tmp_path, num_workers=2), say=_quiet)


def test_a_run_on_names_of_any_bytes_resumes_and_lists_bad_ones(images: Path, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/im\xe9ges"
    shutil.copytree(images, os.fsdecode(odd))
    folders = sorted(os.listdir(odd))
    os.rename(odd + b"/" + folders[0], odd + b"/z\xe9ro")
    bad = odd + b"/z\xe9ro/b\xe4d\n1.png"
    Path(os.fsdecode(bad)).write_bytes(b"no picture")
    config = tiny_config(os.fsdecode(odd), tmp_path / "runs", checkpoint_every_steps=1, max_steps=9)
    said: list[str] = []
    pretrain(replace(config, run=replace(config.run, max_steps=4)), say=said.append)
    folder = Path(pretrain(config, say=said.append).folder)
    "".join(said).encode()  # everything that was said can be printed
    lines = [json.loads(line) for line in (folder / "bad_images.jsonl").read_text().splitlines()]
    assert [line["uri"] for line in lines] == [f"file-bytes://{tmp_path}/im%E9ges/z%E9ro/b%E4d%0A1.png"]
    assert json.loads((folder / "config.json").read_text())["data"]["uri"] == f"file-bytes://{tmp_path}/im%E9ges"


def test_a_folder_of_runs_of_any_bytes_holds_a_run(images: Path, tmp_path: Path, pictures: None) -> None:
    runs = os.fsdecode(os.fsencode(tmp_path) + b"/r\xfcns")
    folder = pretrain(tiny_config(images, runs, max_steps=1), say=_quiet).folder
    assert folder == f"file-bytes://{tmp_path}/r%FCns/run"
    assert {"config.json", "metrics.jsonl", "tensorboard", "report"} <= set(os.listdir(f"{runs}/run"))
