"""What the tests of data share: one S3 server, four pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from moco_ray.storage.storage import Storage, resolve_storage_options
from tests.data.pictures import make_photos
from tests.s3 import S3Server, s3_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    return make_photos()


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that knows nothing of AWS."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


@pytest.fixture
def s3(server: S3Server, no_aws: None, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with its credentials in the environment."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest) -> Storage:
    """An empty folder that was not made yet, on a disk and on S3."""
    name = f"f{abs(hash(request.node.name)):x}"
    if request.param == "local":
        return open_storage(f"{request.getfixturevalue('tmp_path')}/{name}")
    return open_storage(f"s3://{request.getfixturevalue('s3').bucket}/{name}")


def open_storage(uri: str) -> Storage:
    return Storage.open(uri, resolve_storage_options(uri, None))
