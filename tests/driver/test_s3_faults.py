"""Runs on an S3 that fails: the same result, or one clear error and a run that goes on later."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from moco_ray.config import Config
from moco_ray.config.patience import Patience
from moco_ray.driver import run
from moco_ray.driver.run import RunResult
from moco_ray.run_folder.checkpoint import CheckpointStore, checkpoint_name
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.storage import storage as storage_module
from moco_ray.storage.storage import Storage, resolve_storage_options
from moco_ray.worker.console import said_by
from tests.faults import Fault, FaultyProxy, Kind
from tests.runs import digests, losses, punctual_checkpoints, tiny_config
from tests.s3 import S3Server, s3_server

pretrain = partial(run.pretrain, patience=Patience(finish=2.0))
STEPS = 9
KINDS = get_args(Kind)
# A second instead of a minute, and fewer tries in botocore, which would leave little to our own.
OPTIONS = '{"config_kwargs": {"connect_timeout": 2, "read_timeout": 1, "retries": {"total_max_attempts": 2}}}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run on a disk."""
    return Path(pretrain(tiny_config(images, tmp_path_factory.mktemp("runs"), max_steps=STEPS), say=_quiet).folder)


@pytest.fixture
def proxy(server: S3Server, images: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A way to the server that breaks nothing yet; the images are there."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    folder = _open(_images(server))
    if not folder.exists(folder.root):
        for path in sorted(images.glob("*/*.png")):
            folder.write_bytes(folder.join(path.parent.name, path.name), path.read_bytes())
    proxy = FaultyProxy(server.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    yield proxy
    proxy.down()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds of patience instead of minutes."""
    monkeypatch.setattr(storage_module, "_PATIENCE_S", 2.0)
    monkeypatch.setattr(storage_module, "_FIRST_PATIENCE_S", 2.0)


def _quiet(line: str) -> None:
    pass


def _images(server: S3Server) -> str:
    return f"s3://{server.bucket}/images"


def _open(uri: str) -> Storage:
    return Storage.open(uri, resolve_storage_options(uri, OPTIONS))


def _config(server: S3Server, name: str) -> Config:
    """A run that lists, reads and writes on S3, with a checkpoint every three steps."""
    config = tiny_config(
        _images(server), f"s3://{server.bucket}/runs", name=name, max_steps=STEPS, checkpoint_every_steps=3
    )
    return replace(
        config,
        data=replace(config.data, storage_options=OPTIONS),
        run=replace(config.run, storage_options=OPTIONS, log_every_steps=3),
    )


def _assert_undisturbed(result: RunResult, undisturbed: Path) -> None:
    folder = _open(result.folder)
    lines = stored_lines(folder, "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(STEPS))
    assert [line["rows_digest"] for line in lines] == digests(undisturbed)
    np.testing.assert_allclose([line["train/loss"] for line in lines], losses(undisturbed), rtol=1e-9)
    assert folder.read_bytes(folder.join("bad_images.jsonl")) == b""
    assert _newest(folder) == STEPS


def _newest(folder: Storage) -> int | None:
    warnings: list[str] = []
    with said_by(warnings.append):
        newest = CheckpointStore(storage=folder).newest()
    assert not warnings
    return newest


@pytest.mark.slow
def test_no_kind_of_fault_changes_a_run(
    proxy: FaultyProxy, server: S3Server, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind at every place: listing, reading images, looking for files, writing checkpoints."""
    # The first thing asked for meets all the kinds in a row, which takes about as long as it would wait for a server.
    monkeypatch.setattr(storage_module, "_FIRST_PATIENCE_S", 60.0)
    places = [("GET", "list-type=2"), ("GET", r"\.png"), ("HEAD", ""), ("PUT", "checkpoint_.*(state|COMMITTED)")]
    for kind in KINDS:
        proxy.faults += [Fault(kind=kind, method=method, path=path, count=1) for method, path in places]
    result = pretrain(_config(server, "every"), say=_quiet)
    for kind in KINDS:
        assert proxy.broken[kind] == (1 if kind.endswith("_upload") else 4), kind
    _assert_undisturbed(result, undisturbed)


@pytest.mark.slow
def test_faults_of_all_kinds_at_random_change_nothing(proxy: FaultyProxy, server: S3Server, undisturbed: Path) -> None:
    often = [kind for kind in KINDS if kind not in ("hang", "stalled_upload")]
    proxy.faults = [Fault(kind=kind, chance=0.012) for kind in often]
    proxy.faults += [Fault(kind="hang", chance=0.01, count=3), Fault(kind="stalled_upload", chance=0.05, count=1)]
    result = pretrain(_config(server, "random"), say=_quiet)
    assert len(proxy.broken) >= 7 and proxy.broken.total() > 0.05 * len(proxy.seen)
    proxy.faults = []
    _assert_undisturbed(result, undisturbed)


@pytest.mark.slow
def test_cut_and_corrupt_checkpoints_are_never_resumed_from(
    proxy: FaultyProxy, server: S3Server, undisturbed: Path, impatient: None
) -> None:
    config = _config(server, "cut")
    said: list[str] = []
    folder = _open(f"s3://{server.bucket}/runs/cut")
    for file in ("state.pt", "COMMITTED"):
        proxy.faults = [Fault(kind="cut_upload", method="PUT|POST", path=f"{checkpoint_name(9)}/{file}")]
        with (
            punctual_checkpoints(),
            pytest.raises(OSError, match=r"checkpoint_000000009.*s3://.*cut.*same command resumes"),
        ):
            pretrain(config, say=said.append)
        assert proxy.broken["cut_upload"] > 1
        assert not folder.exists(folder.join(checkpoint_name(9), "COMMITTED"))
    assert any("training from step 6 " in line for line in said)
    proxy.faults = []
    state = folder.join(checkpoint_name(6), "state.pt")
    folder.write_bytes(state, folder.read_bytes(state)[:-100])
    said.clear()
    _assert_undisturbed(pretrain(config, say=said.append), undisturbed)
    assert any("checkpoint_000000009 was never finished" in line for line in said)
    assert any("checkpoint_000000006 is damaged" in line and "the one before" in line for line in said)
    assert any("training from step 3 " in line for line in said)


@pytest.mark.slow
def test_an_endpoint_that_goes_away_ends_the_run_and_the_same_command_resumes_it(
    proxy: FaultyProxy, server: S3Server, undisturbed: Path, impatient: None
) -> None:
    config = _config(server, "away")

    def away() -> None:
        while not any("PUT" in line and f"{checkpoint_name(3)}/COMMITTED" in line for line in proxy.seen):
            time.sleep(0.01)
        time.sleep(0.1)
        proxy.down()

    threading.Thread(target=away, daemon=True).start()
    start = time.monotonic()
    # Refused, or never answered where a connection was open.
    with pytest.raises((OSError, ValueError), match=rf"s3://{server.bucket}/.*(connect|Connection|FSTimeoutError)"):
        pretrain(config, say=_quiet)
    with pytest.raises((OSError, ValueError), match=rf"s3://{server.bucket}.*(connect|Connection)"):
        pretrain(config, say=_quiet)
    assert time.monotonic() - start < 60
    proxy.up()
    said: list[str] = []
    _assert_undisturbed(pretrain(config, say=said.append), undisturbed)
    assert any("training from step 3 " in line for line in said)
