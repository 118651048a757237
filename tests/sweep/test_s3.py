"""A sweep whose images and results are on a real S3 server that only its driver knows how to reach."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from moco_ray.storage.storage import Storage, resolve_storage_options
from tests.s3 import s3_server
from tests.sweep.sweeps import run_sweep, sweep_config


@pytest.mark.slow
def test_trials_need_no_access_of_their_own(
    images: Path, tmp_path: Path, shared_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with s3_server(tmp_path / "s3") as server:
        for name, value in server.environment.items():  # after Ray has started: its processes do not have it
            monkeypatch.setenv(name, value)
        uri = f"s3://{server.bucket}/images"
        storage = Storage.open(uri, resolve_storage_options(uri, None))
        for path in sorted(images.glob("*/*.png")):
            storage.write_bytes(storage.join(path.parent.name, path.name), path.read_bytes())
        config = sweep_config(uri, f"s3://{server.bucket}/runs", max_steps=8)
        config = replace(config, data=replace(config.data, uri=uri))
        said: list[str] = []
        result = run_sweep(config, said, num_samples=1)
        assert [record.state for record in result.records] == ["finished"]
        assert result.folder == f"s3://{server.bucket}/runs/sweep"
        folder = Storage.open(result.folder, resolve_storage_options(result.folder, None))
        found = {name for name, _, _ in folder.list(folder.root)}
        assert {"best.json", "report.html", "sweep.json", "manifest.parquet", "trials", "trial_0000"} <= found
        for name in ("best.json", "report.html", "sweep.json", "trials/trial_0000.json", "trial_0000/log.txt"):
            assert server.secret not in folder.read_bytes(folder.join(*name.split("/"))).decode()
        assert json.loads(folder.read_bytes(folder.join("best.json")))["run"]["name"] is None

        again = run_sweep(config, said, num_samples=2)  # one more
        assert again.records[0].points == result.records[0].points
        assert [record.state for record in again.records] == ["finished", "finished"]
    assert server.secret not in "\n".join(said)
