"""Runs whose images and folder are on a real S3 server."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import moco_ray
from moco_ray.driver.run import pretrain
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.storage.storage import Storage, resolve_storage_options
from tests.runs import digests, losses, tiny_config
from tests.s3 import S3Server, s3_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with its credentials in the environment."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def s3_images(images: Path, s3: S3Server) -> str:
    """The images as objects, under keys that trip up careless clients."""
    uri = f"s3://{s3.bucket}/my images+%2F/ü#1"
    storage = Storage.open(uri, resolve_storage_options(uri, None))
    if not storage.exists(storage.root):
        for path in sorted(images.glob("*/*.png")):
            storage.write_bytes(
                storage.join(path.parent.name, f"{path.stem} +%2F{'é' if path.stem[-1] == '1' else ''}.png"),
                path.read_bytes(),
            )
    return uri


def _quiet(line: str) -> None:
    pass


def _open(uri: str) -> Storage:
    return Storage.open(uri, resolve_storage_options(uri, None))


def test_a_run_on_s3_equals_the_run_on_a_disk(
    images: Path, s3: S3Server, s3_images: str, tmp_path: Path, pictures: None
) -> None:
    local = Path(pretrain(tiny_config(images, tmp_path, max_steps=10), say=_quiet).folder)
    config = tiny_config(s3_images, f"s3://{s3.bucket}/runs", name="equal", checkpoint_every_steps=3, log_every_steps=3)
    pretrain(replace(config, run=replace(config.run, max_steps=5)), say=_quiet)
    result = pretrain(replace(config, run=replace(config.run, max_steps=10)), say=_quiet)
    lines = stored_lines(_open(result.folder), "metrics.jsonl")
    assert [line["rows_digest"] for line in lines] == digests(local)
    # Keys sort as the local names do, so rows are the same images.
    np.testing.assert_allclose([line["train/loss"] for line in lines], losses(local), rtol=1e-12)
    assert moco_ray.load_encoder(result.folder) is not None
    assert moco_ray.load_encoder(result.encoder) is not None
    assert moco_ray.load_preset(f"{result.folder}/config.json").data.uri == s3_images
    storage = _open(result.folder)
    names = {name for name, _, _ in storage.list(storage.root)}
    assert {"config.json", "manifest.parquet", "metrics", "metrics.jsonl", "eval.jsonl", "tensorboard"} <= names
    assert {name for name, _, _ in storage.list(storage.join("report"))} >= {
        "index.html",
        "views.png",
        "curves.png",
    }
    page = storage.read_bytes(storage.join("report", "index.html")).decode()
    assert 'class="state ended"' in page and "step 10 of 10" in page and f"{losses(local)[-1]}"[:4] in page
    assert s3.secret not in page and s3.key not in page


def test_credentials_are_in_no_file_of_the_run(s3: S3Server, s3_images: str, tmp_path: Path) -> None:
    said: list[str] = []
    folder = Path(pretrain(tiny_config(s3_images, tmp_path, max_steps=2), say=said.append).folder)
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for secret in (s3.secret, s3.key):
        assert secret.encode() not in content and secret not in "".join(said)


def test_storage_options_serve_where_the_environment_has_nothing(
    server: S3Server, s3_images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in server.environment:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    config = tiny_config(s3_images, tmp_path, max_steps=1)
    options = f'{{"key": "{server.key}", "secret": "{server.secret}", "endpoint_url": "{server.endpoint}"}}'
    result = pretrain(replace(config, data=replace(config.data, storage_options=options)), say=_quiet)
    assert result.step == 1
    assert server.secret not in (Path(result.folder) / "config.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "access is refused"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, "access is refused"),
    ],
)
def test_wrong_credentials_are_one_clear_message(
    change: dict[str, str], message: str, s3_images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        pretrain(tiny_config(s3_images, tmp_path), say=_quiet)


def test_a_missing_bucket_is_one_clear_message(s3: S3Server, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"s3://nobody-made-this.*no such bucket"):
        pretrain(tiny_config("s3://nobody-made-this/images", tmp_path), say=_quiet)
    with pytest.raises(ValueError, match=r"s3://nobody-made-this.*no such bucket"):
        pretrain(tiny_config(images, "s3://nobody-made-this/runs"), say=_quiet)


@pytest.mark.slow
def test_ray_started_without_credentials_reads_with_the_drivers(
    s3: S3Server, s3_images: str, images: Path, tmp_path: Path, ray_without_credentials: tuple[str, Path]
) -> None:
    """Workers and data tasks get the driver's credentials, and no log of Ray shows them."""
    import subprocess
    import sys

    address, session = ray_without_credentials
    environment = {**os.environ, "RAY_ADDRESS": address, **s3.environment}
    flags = f"--preset smoke --run.num-workers 2 --run.storage-path s3://{s3.bucket}/runs --run.name remote".split()
    command = [sys.executable, "jobs/pretrain.py", *flags, "--data.uri", s3_images]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(stored_lines(_open(f"s3://{s3.bucket}/runs/remote"), "metrics.jsonl")) == 4
    assert s3.secret not in done.stdout + done.stderr
    logs = [path for path in session.joinpath("logs").rglob("*") if path.is_file()]
    assert logs
    for log in logs:
        assert s3.secret.encode() not in log.read_bytes(), log


@pytest.fixture
def ray_without_credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The address and folder of a Ray head on this machine that was started without AWS credentials."""
    import subprocess
    import sys

    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    program = (
        "import ray, time; info = ray.init(address='local', num_cpus=5, include_dashboard=False, log_to_driver=False);"
        "print(info.address_info['gcs_address'], info.address_info['session_dir'], flush=True); time.sleep(600)"
    )
    head = subprocess.Popen(
        [sys.executable, "-c", program], env=clean, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert head.stdout is not None
    try:
        started = head.stdout.readline().split()
        assert started, "Ray did not start"
        yield started[0], Path(started[1])
    finally:
        head.kill()
        head.wait()


def test_objects_that_are_gone_or_refused_alone_are_bad_images_and_a_moved_bucket_goes_on(
    images: Path, s3: S3Server, tmp_path: Path
) -> None:
    """Also of a list, of which nothing is known before; the images are copied to another prefix in mid-run."""
    here, there = (_open(f"s3://{s3.bucket}/{name}") for name in ("here", "there"))
    paths = sorted(images.glob("*/*.png"))[::4]
    for folder in (here, there):
        for path in paths:
            folder.write_bytes(folder.join(path.parent.name, path.name), path.read_bytes())
    config = tiny_config(here.uri(here.root), tmp_path, name="gone", max_steps=1)
    config = replace(config, data=replace(config.data, max_bad_fraction=0.3))
    config = replace(config, eval=replace(config.eval, max_queries=4, max_bank=4))
    folder = Path(pretrain(config, say=_quiet).folder)
    for path in paths[::8]:
        here.delete(here.join(path.parent.name, path.name))
    pretrain(replace(config, run=replace(config.run, max_steps=4)), say=_quiet)
    bad = (folder / "bad_images.jsonl").read_text().splitlines()
    assert 1 <= len(bad) <= len(paths[::8]) and all("there is no such file or folder" in line for line in bad)
    moved = replace(
        config, data=replace(config.data, uri=f"{there.uri(there.root)}/"), run=replace(config.run, max_steps=5)
    )
    said: list[str] = []
    assert pretrain(moved, say=said.append).step == 5
    assert any("lie in s3://" in line for line in said)
    names = [f"{here.uri(here.join(path.parent.name, path.name))}\n" for path in paths]
    (tmp_path / "list.csv").write_text("uri\n" + "".join(names))
    listed = replace(
        config,
        data=replace(config.data, uri=str(tmp_path / "list.csv")),
        run=replace(config.run, name="list", max_steps=3),
    )
    folder = Path(pretrain(listed, say=_quiet).folder)
    assert len((folder / "bad_images.jsonl").read_text().splitlines()) == len(paths[::8])
    here.delete(here.root)
    with pytest.raises(ValueError, match=r"there is no such file.*none of the \d+ others"):
        pretrain(replace(listed, run=replace(listed.run, max_steps=4)), say=_quiet)
