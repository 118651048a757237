"""Web servers whose pages have no end, or never come: refused, or left at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moco_ray.config.data import DataConfig
from moco_ray.data.sources import list_source
from moco_ray.storage.checks import check_access
from moco_ray.storage.storage import Storage, StorageOptions, resolve_storage_options
from tests.bare import ROOT
from tests.web import page_server

_LINKS = b'<a href="cat/">cat</a><a href="cat">cat</a><a href="dog/">dog</a><a href="1.png">1</a>'


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("/img/?x=1", "follows . or # belongs to no file below it"),
        ("/img/#top", "follows . or # belongs to no file below it"),
        ("/img/", "answers other addresses with the same links"),
        ("/img", "answers other addresses with the same links"),
    ],
)
def test_pages_without_end_are_refused(place: str, message: str) -> None:
    with page_server(lambda path: (200, {}, _LINKS)) as address, pytest.raises(ValueError, match=message):
        uri = f"{address}{place}"
        list_source(DataConfig(uri=uri), resolve_storage_options(uri, None))


def test_a_page_that_is_linked_twice_is_read_once() -> None:
    seen: list[str] = []

    def answer(path: str) -> tuple[int, dict[str, str], bytes]:
        seen.append(path)
        return 200, {}, _LINKS if path == "/img/" else b'<a href="2.png">2</a>'

    with page_server(answer) as address:
        uri = f"{address}/img/"
        found = list_source(DataConfig(uri=uri), resolve_storage_options(uri, None))
    assert len(found.train) == 3 and sum("cat" in path for path in seen) == 1


@pytest.mark.parametrize("code", [301, 302, 307])
def test_a_circle_of_redirections_ends_at_once(code: int) -> None:
    start = time.monotonic()
    with page_server(lambda path: (code, {"Location": path}, b"")) as address:
        storage = Storage.open(f"{address}/img/", StorageOptions({}))
        with pytest.raises(ValueError, match="redirects again and again"):
            check_access(f"{address}/img/", StorageOptions({}))
        for ask in (storage.list, storage.read_bytes, storage.num_bytes):
            with pytest.raises(ValueError, match="redirects again and again"):
                ask(storage.root)
    assert time.monotonic() - start < 8


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("link", ["%d/", "%d.parquet"])
def test_a_listing_is_left_at_once_while_its_server_does_not_answer(
    link: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"image": [b"1"]}), tmp_path / "0.parquet")
    asked, end = threading.Semaphore(0), threading.Event()

    def answer(path: str) -> tuple[int, dict[str, str], bytes]:
        if path == "/img/0.parquet":
            return 200, {"Content-Type": "text/plain"}, (tmp_path / "0.parquet").read_bytes()
        if path != "/img/":
            asked.release()
            end.wait()
        return 200, {}, "".join(f'<a href="{link % i}">link</a>' for i in range(40)).encode()

    with page_server(answer) as address:
        said = _stop(["--dry-run", "--data.uri", f"{address}/img/"], asked, end, number, code)
    assert "stopped" in said


@pytest.mark.parametrize("what", ["dry run", "training"])
def test_images_are_left_at_once_while_their_server_does_not_answer(what: str, tmp_path: Path) -> None:
    asked, end = threading.Semaphore(0), threading.Event()

    def answer(path: str) -> tuple[int, dict[str, str], bytes]:
        if path != "/img/":
            asked.release()
            end.wait()
        return 200, {}, "".join(f'<a href="{i}.png">link</a>' for i in range(64)).encode()

    with page_server(answer, head=lambda path: (200, {"Content-Type": "image/png"}, b"1234")) as address:
        flags = ["--data.uri", f"{address}/img/", "--run.storage-path", str(tmp_path)]
        said = _stop([*flags, *["--dry-run"] * (what == "dry run")], asked, end, signal.SIGINT, 130)
    assert "64 images" in said and "stopped" in said


def _stop(flags: list[str], asked: threading.Semaphore, end: threading.Event, number: signal.Signals, code: int) -> str:
    """Send a signal to a job whose threads wait for answers: it ends at once. Returns all that it said."""
    process = subprocess.Popen(
        [sys.executable, "jobs/pretrain.py", "--preset", "smoke", "--run.num-workers", "0", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for _ in range(8):
        assert asked.acquire(timeout=60)
    start = time.monotonic()
    os.kill(process.pid, number)
    said, _ = process.communicate(timeout=20)
    end.set()
    assert process.returncode == code
    assert time.monotonic() - start < 10  # 3 where nothing else computes
    return said
