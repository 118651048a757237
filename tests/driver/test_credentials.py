"""Keys that expire: renewed wherever a run uses them; those that are refused, named within seconds."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from moco_ray.driver.run import pretrain
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.storage import storage as storage_module
from moco_ray.storage.checks import check_writable
from moco_ray.storage.storage import KeysRefused, Storage, resolve_storage_options
from tests.expiring import ExpiringS3, Provider, expiring_s3, keys_json, make_provider
from tests.runs import tiny_config
from tests.s3 import S3Server, s3_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def proxy(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExpiringS3]:
    """A way to the server that judges tokens; nothing of AWS is in the environment."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with expiring_s3(server) as running:
        yield running


def provide(proxy: ExpiringS3, folder: Path, life_s: float, monkeypatch: pytest.MonkeyPatch) -> Provider:
    folder.mkdir(exist_ok=True)
    provider = make_provider(folder, proxy.endpoint, life_s)
    for name, value in provider.environment.items():
        monkeypatch.setenv(name, value)
    return provider


def upload(server: S3Server, images: Path, key: str = "images") -> str:
    """The images in the bucket, written with the server's own keys."""
    import json

    uri = f"s3://{server.bucket}/{key}"
    own = {"key": server.key, "secret": server.secret, "endpoint_url": server.endpoint}
    folder = Storage.open(uri, resolve_storage_options(uri, json.dumps(own)))
    if not folder.exists(folder.root):
        for path in sorted(images.glob("*/*.png")):
            folder.write_bytes(folder.join(path.parent.name, path.name), path.read_bytes())
    return uri


def quiet(line: str) -> None:
    pass


def open_storage(uri: str, options: str | None = None) -> Storage:
    return Storage.open(uri, resolve_storage_options(uri, options))


def test_keys_are_renewed_before_they_expire_and_asked_for_no_oftener(
    proxy: ExpiringS3, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = provide(proxy, tmp_path / "keys", 2.0, monkeypatch)
    folder = open_storage(f"s3://{server.bucket}/renewed")
    again = open_storage(f"s3://{server.bucket}/renewed")
    start = time.monotonic()
    while (seconds := time.monotonic() - start) < 5.0 or (provider.num_asked < 3 and seconds < 60.0):
        folder.write_bytes(folder.join("a"), b"1")
        assert again.read_bytes(again.join("a")) == b"1"
    assert 3 <= provider.num_asked <= 1 + seconds  # a request of a busy machine may take seconds
    assert proxy.answers["ExpiredToken"] == 0


def test_keys_that_end_without_saying_so_are_replaced_after_a_refusal(
    proxy: ExpiringS3, server: S3Server, tmp_path: Path
) -> None:
    """A job that refreshes a file: of options, or of credentials."""
    file = tmp_path / "options.json"
    file.write_text(keys_json(proxy.endpoint, time.time() + 3))
    folder = open_storage(f"s3://{server.bucket}/file", str(file))
    folder.write_bytes(folder.join("a"), b"1")
    time.sleep(3.1)
    threading.Timer(1.0, lambda: file.write_text(keys_json(proxy.endpoint, time.time() + 60))).start()
    assert folder.read_bytes(folder.join("a")) == b"1"
    assert proxy.answers["ExpiredToken"] > 0
    assert folder.exists(folder.join("a"))


def test_a_credentials_file_that_is_rewritten_is_read_again(
    proxy: ExpiringS3, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"

    def write(seconds: float) -> None:
        token = f"until-{time.time() + seconds}"
        file.write_text(
            f"[default]\naws_access_key_id = T\naws_secret_access_key = hush\naws_session_token = {token}\n"
        )

    write(3)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    folder = open_storage(f"s3://{server.bucket}/rewritten")
    folder.write_bytes(folder.join("a"), b"1")
    time.sleep(3.1)
    write(60)
    assert folder.read_bytes(folder.join("a")) == b"1"


def test_keys_that_nobody_renews_end_the_wait_with_what_the_provider_said(
    proxy: ExpiringS3, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "_PATIENCE_S", 4.0)
    provider = provide(proxy, tmp_path / "keys", 1.0, monkeypatch)
    folder = open_storage(f"s3://{server.bucket}/ended")
    folder.write_bytes(folder.join("a"), b"1")
    provider.life.write_text("no")
    start = time.monotonic()
    with pytest.raises(KeysRefused, match=r"keys have expired.*aws sso login.*please sign in again") as caught:
        while True:
            folder.read_bytes(folder.join("a"))
    assert time.monotonic() - start < 12 and "hush" not in str(caught.value)


Change = Callable[[ExpiringS3, pytest.MonkeyPatch], None]


def _environment(proxy: ExpiringS3, monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    names = {"AWS_ACCESS_KEY_ID": "T", "AWS_SECRET_ACCESS_KEY": "hush", "AWS_ENDPOINT_URL": proxy.endpoint}
    for name, value in {**names, "AWS_REGION": "us-east-1", **values}.items():
        monkeypatch.setenv(name, value)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


MISTAKES: dict[str, tuple[dict[str, str], str, str]] = {
    "expired": ({"AWS_SESSION_TOKEN": "until-5"}, "", r"keys have expired.*AWS_SESSION_TOKEN"),
    "no token": ({}, "", r"InvalidAccessKeyId.*temporary keys need AWS_SESSION_TOKEN"),
    "wrong token": ({"AWS_SESSION_TOKEN": "another"}, "", r"session token is wrong"),
    "wrong secret": ({}, "SignatureDoesNotMatch", r"secret key does not belong.*AWS_SECRET_ACCESS_KEY"),
    "clock": ({}, "RequestTimeTooSkewed", r"clocks.*NTP"),
    "region": ({}, "AuthorizationHeaderMalformed", r"another region.*AWS_REGION"),
    "typo": ({"AWS_ENDPOINT_URL": "http://stroage.invalid"}, "", r"nobody knows this host|check the address"),
    "port": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:PORT"}, "", r"check the address"),
    "tls": ({"AWS_ENDPOINT_URL": "https://PROXY"}, "", r"does not speak TLS"),
    "profile": ({"AWS_PROFILE": "nobody"}, "", r"nobody.*AWS_PROFILE"),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("place", ["data", "run"])
def test_a_mistake_is_named_within_seconds_of_the_start(
    name: str, place: str, proxy: ExpiringS3, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, proxy.code, message = MISTAKES[name]
    host = proxy.endpoint.removeprefix("http://")
    values = {key: value.replace("PROXY", host).replace("PORT", str(closed_port())) for key, value in values.items()}
    _environment(proxy, monkeypatch, **values)
    bucket = f"s3://{proxy.server.bucket}/x"
    config = tiny_config(bucket, tmp_path) if place == "data" else tiny_config(images, bucket)
    start = time.monotonic()
    with pytest.raises((ValueError, OSError), match=message) as caught:
        pretrain(config, say=quiet)
    assert time.monotonic() - start < 20 and "hush" not in str(caught.value)


@pytest.mark.slow
def test_servers_that_know_no_newer_checksums_are_written_to(
    proxy: ExpiringS3, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.refuses_checksums, proxy.only_tokens = True, False
    _environment(proxy, monkeypatch)
    folder = open_storage(f"s3://{server.bucket}/plain")
    check_writable(folder)
    folder.write_bytes(folder.join("large"), bytes(60 * 2**20))
    assert folder.num_bytes(folder.join("large")) == 60 * 2**20
    folder.delete(folder.root)
    assert proxy.answers.total() == 0
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")  # a user's own choice stays
    folder = open_storage(f"s3://{server.bucket}/plain")
    with pytest.raises((ValueError, OSError), match=r"NotImplemented|not implemented|refused by the test"):
        monkeypatch.setattr(storage_module, "_PATIENCE_S", 1.0)
        folder.write_bytes(folder.join("a"), b"1")


@pytest.mark.slow
def test_a_run_outlives_its_keys(
    proxy: ExpiringS3, server: S3Server, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = provide(proxy, tmp_path / "keys", 2.0, monkeypatch)
    uri = upload(server, images)
    config = tiny_config(uri, f"s3://{server.bucket}/runs", name="outlives", max_steps=9, checkpoint_every_steps=3)
    start = time.time()
    result = pretrain(config, say=quiet)
    lives = (time.time() - start) / 2.0
    assert result.step == 9 and proxy.answers["ExpiredToken"] <= 2
    assert 2 <= provider.num_asked <= 2 * lives + 4
    run = open_storage(result.folder)
    assert b"hush" not in run.read_bytes(run.join("config.json"))


RUN = """
import sys
from dataclasses import replace
from pathlib import Path
from moco_ray.driver.run import pretrain
from tests.runs import tiny_config

config = tiny_config(sys.argv[1], sys.argv[2], name="ray", num_workers=2, checkpoint_every_steps=20, max_steps=200)
config = replace(config, optim=replace(config.optim, epochs=40), eval=replace(config.eval, every_steps=100))
print(pretrain(config).folder, flush=True)
"""


@pytest.mark.slow
def test_nodes_without_a_provider_outlive_the_drivers_keys(
    proxy: ExpiringS3, server: S3Server, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray runs in an environment that knows nothing of the provider; keys live 25 s, the run much longer."""
    uri = upload(server, images)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    clean |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/nonexistent"}
    program = (
        "import ray, time; info = ray.init(address='local', num_cpus=5, include_dashboard=False, log_to_driver=False);"
        "print(info.address_info['gcs_address'], flush=True); time.sleep(600)"
    )
    head = subprocess.Popen(
        [sys.executable, "-c", program], env=clean, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert head.stdout is not None
    try:
        address = head.stdout.readline().strip()
        provider = provide(proxy, tmp_path / "keys", 25.0, monkeypatch)
        start = time.time()
        done = subprocess.run(
            [sys.executable, "-c", RUN, uri, f"s3://{server.bucket}/runs"],
            env={**os.environ, "RAY_ADDRESS": address},
            capture_output=True,
            text=True,
            timeout=550,
        )
        seconds = time.time() - start
    finally:
        head.kill()
        head.wait()
    assert done.returncode == 0, done.stdout + done.stderr
    assert seconds > 40, "the run was too short to show anything"
    run = open_storage(f"s3://{server.bucket}/runs/ray")
    assert len(stored_lines(run, "metrics.jsonl")) == 200
    assert "restarted" not in done.stdout and "failed" not in done.stdout, done.stdout
    assert 2 <= provider.num_asked <= 2 * seconds / 25 + 4
    assert "hush" not in done.stdout + done.stderr


@pytest.mark.slow
def test_trials_of_a_sweep_outlive_its_keys(
    proxy: ExpiringS3, server: S3Server, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_ray: None
) -> None:
    from moco_ray.sweep.config import SweepConfig
    from moco_ray.sweep.sweep import sweep

    provide(proxy, tmp_path / "keys", 40.0, monkeypatch)
    config = tiny_config(upload(server, images), f"s3://{server.bucket}/sweeps", name="sweep", max_steps=60)
    config = replace(config, optim=replace(config.optim, epochs=40), eval=replace(config.eval, every_steps=20))
    settings = SweepConfig(num_samples=2, max_concurrent=1, space=("optim.lr=choice:0.1,0.05",), metric="eval/knn_top1")
    said: list[str] = []
    result = sweep(settings, config, say=said.append)
    assert result is not None and "failed" not in "\n".join(said), said
