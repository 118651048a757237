"""Storage: literal names, whole files, no stale answers, and errors that say what to do."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from moco_ray.storage import storage
from moco_ray.storage.checks import check_bucket, check_writable
from moco_ray.storage.errors import final_error
from moco_ray.storage.storage import ReadError, Storage, StorageOptions, resolve_storage_options
from tests.faults import Fault, FaultyProxy, Kind
from tests.s3 import S3Server, open_storage

NAMES = [
    "plain.jpg",
    "with space.jpg",
    "two  spaces .jpg",
    "ünïcödé 漢字.jpg",
    "a+b.jpg",
    "a%2Fb.jpg",
    "a#b.jpg",
    "a?b.jpg",
    "a*b.jpg",
    "a[0].jpg",
    "a::b.jpg",
    "a=b&c;d.jpg",
    "~a.jpg",
    "quote's \".jpg",
    "deep/er/a.jpg",
]


def names(folder: Storage, path: str | None = None) -> set[str]:
    return {name for name, _, _ in folder.list(path or folder.root)}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_taken_literally(folder: Storage, name: str) -> None:
    path = folder.join(*name.split("/"))
    folder.write_bytes(path, name.encode())
    assert folder.read_bytes(path) == name.encode()
    assert folder.exists(path) and folder.is_file(path)
    assert names(folder) == {name.split("/")[0]}
    with folder.open_file(path) as file:
        assert file.read() == name.encode()
    folder.delete(path)
    assert not folder.exists(path)


def test_a_root_may_be_spelled_with_odd_characters(folder: Storage) -> None:
    uri = folder.uri(folder.join("a b+%2F", "ü#1?[x]*"))
    inner = open_storage(uri)
    inner.write_bytes(inner.join("x"), b"1")
    assert inner.uri(inner.root) == uri
    assert names(inner) == {"x"} and folder.exists(folder.join("a b+%2F", "ü#1?[x]*", "x"))


def test_listing_tells_files_from_folders_and_is_never_stale(folder: Storage) -> None:
    assert folder.list(folder.root) == [] and not folder.exists(folder.root)
    folder.write_bytes(folder.join("a"), b"12345")
    folder.write_bytes(folder.join("b", "c"), b"1")
    listed = {name: (num_bytes, is_folder) for name, num_bytes, is_folder in folder.list(folder.root)}
    assert listed.keys() == {"a", "b"} and listed["a"] == (5, False) and listed["b"][1]
    folder.write_bytes(folder.join("b", "d"), b"1")
    assert names(folder, folder.join("b")) == {"c", "d"}
    folder.delete(folder.join("b", "c"))
    assert names(folder, folder.join("b")) == {"d"}


@pytest.mark.parametrize("victim", ["run*", "run[1]", "run?"])
def test_deleting_deletes_nothing_but_the_named_folder(folder: Storage, victim: str) -> None:
    for name in ("run*", "run[1]", "run?", "run1", "runs"):
        folder.write_bytes(folder.join(name, "a"), b"1")
        folder.write_bytes(folder.join(name, "b", "c"), b"1")
    folder.delete(folder.join(victim))
    assert not folder.exists(folder.join(victim, "a")) and not folder.exists(folder.join(victim, "b", "c"))
    for name in {"run*", "run[1]", "run?", "run1", "runs"} - {victim}:
        assert folder.exists(folder.join(name, "a")) and folder.exists(folder.join(name, "b", "c"))
    folder.delete(folder.join("never there"))


def test_writing_replaces_whole_files_and_leaves_no_scraps(folder: Storage) -> None:
    path = folder.join("new", "folder", "file")
    contents = [bytes([i]) * 100_000 for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda content: folder.write_bytes(path, content), contents))
    assert folder.read_bytes(path) in contents
    assert names(folder, folder.join("new", "folder")) == {"file"}
    folder.write_bytes(path, b"")
    assert folder.read_bytes(path) == b""


def test_a_missing_file_is_named_at_once(folder: Storage) -> None:
    with pytest.raises(ValueError, match=r"nothing\.jpg: there is no such file"):
        folder.read_bytes(folder.join("nothing.jpg"))


def test_check_writable_leaves_nothing(folder: Storage) -> None:
    check_writable(folder)
    assert folder.list(folder.root) == []


def test_a_storage_survives_pickling(folder: Storage) -> None:
    folder.write_bytes(folder.join("a"), b"1")
    assert pickle.loads(pickle.dumps(folder)).read_bytes(folder.join("a")) == b"1"


@contextmanager
def anybody() -> Iterator[None]:
    """Inside, files are written as by somebody who is not root, who may write anywhere."""
    before = os.geteuid()
    os.seteuid(before or 65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_read_only_folder_is_a_user_error() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        with anybody(), pytest.raises(ValueError, match="access is refused"):
            check_writable(open_storage(folder))
        assert list(Path(folder).iterdir()) == []
        Path(folder).chmod(0o755)
        check_writable(open_storage(folder))


def test_a_folder_below_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=str(tmp_path)):
        check_writable(open_storage(f"{tmp_path}/file/run"))


def test_links_are_what_they_lead_to_and_never_run_in_circles(tmp_path: Path) -> None:
    folder = open_storage(str(tmp_path / "images"))
    folder.write_bytes(folder.join("a", "1.jpg"), b"123")
    (tmp_path / "images" / "b").symlink_to(tmp_path / "images" / "a")
    (tmp_path / "images" / "a" / "2.jpg").symlink_to(tmp_path / "images" / "a" / "1.jpg")
    (tmp_path / "images" / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "images" / "a" / "here").symlink_to(".")
    for name, other in (("c", "d"), ("d", "c")):  # each in the other
        folder.write_bytes(folder.join(name, "file"), b"1")
        (tmp_path / "images" / name / other).symlink_to(tmp_path / "images" / other)
    assert names(folder, folder.join("c")) == {"file", "d"} and names(folder, folder.join("c", "d")) == {"file"}
    assert sorted(folder.list(folder.root))[1][::2] == ("b", True)
    assert sorted(folder.list(folder.join("b"))) == [("1.jpg", 3, False), ("2.jpg", 3, False)]
    folder.delete(folder.join("b"))
    assert names(folder, folder.join("a")) == {"1.jpg", "2.jpg"}


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_storage("images").root == f"{tmp_path}/images"
    assert open_storage(f"file://{tmp_path}/images/").root == f"{tmp_path}/images"


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_a_user_error(s3: S3Server, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "wrong")
    folder = open_storage(f"s3://{s3.bucket}/x")
    for attempt in (
        lambda: folder.list(folder.root),
        lambda: folder.read_bytes(folder.join("a")),
        lambda: check_writable(folder),
    ):
        with pytest.raises(ValueError, match=r"access is refused.*check credentials"):
            attempt()


def test_no_credentials_are_a_user_error(server: S3Server, no_aws: None) -> None:
    options = resolve_storage_options("s3://moco/x", json.dumps({"endpoint_url": server.endpoint}))
    folder = Storage.open("s3://moco/x", options)
    with pytest.raises(ValueError, match=r"no credentials.*AWS_ACCESS_KEY_ID"):
        folder.read_bytes(folder.join("a"))


def test_a_missing_bucket_is_a_user_error(s3: S3Server) -> None:
    folder = open_storage("s3://nobody-made-this/x")
    for attempt in (
        lambda: folder.read_bytes(folder.join("a")),
        lambda: check_writable(folder),
        lambda: check_bucket(folder),
    ):
        with pytest.raises(ValueError, match=r"s3://nobody-made-this.*no such bucket"):
            attempt()


def test_unknown_protocols_are_a_user_error() -> None:
    with pytest.raises(ValueError, match="nosuch://"):
        Storage.open("nosuch://a/b", StorageOptions({}))


def test_options_never_show_values(s3: S3Server) -> None:
    options = resolve_storage_options("s3://moco/x", None)
    for shown in (repr(options), str(options), f"{options}", repr(open_storage("s3://moco/x"))):
        assert s3.secret not in shown and s3.key not in shown
    assert "secret" in repr(options)


@pytest.mark.parametrize("text", ['{"secret": "hush"', '["hush"]', "/no/such/hush.json", "hush"])
def test_wrong_options_are_refused_without_an_echo(text: str) -> None:
    with pytest.raises(ValueError, match="storage-options") as caught:
        resolve_storage_options("s3://moco/x", text)
    assert "hush" not in str(caught.value)


def test_options_come_from_a_file_and_win_over_the_environment(s3: S3Server, tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text(json.dumps({"key": "k", "secret": "s", "endpoint_url": "http://mine"}))
    options = resolve_storage_options("s3://moco/x", str(file))
    assert options.values["key"] == "k" and options.values["endpoint_url"] == "http://mine"


def test_resolved_options_work_where_no_environment_is(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    options = pickle.loads(pickle.dumps(resolve_storage_options(f"s3://{s3.bucket}/x", None)))
    for name in s3.environment:
        monkeypatch.delenv(name)
    folder = Storage.open(f"s3://{s3.bucket}/x", options)
    folder.write_bytes(folder.join("a"), b"1")
    assert folder.read_bytes(folder.join("a")) == b"1"


@pytest.mark.parametrize("by_option", [True, False])
def test_a_profile_is_resolved_to_its_keys(
    by_option: bool, no_aws: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config"
    file.write_text(
        "[profile lab]\naws_access_key_id = k\naws_secret_access_key = s\nregion = eu-west-9\nendpoint_url = http://lab\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    if not by_option:
        monkeypatch.setenv("AWS_PROFILE", "lab")
    values = resolve_storage_options("s3://b/x", '{"profile": "lab"}' if by_option else None).values
    assert (values["key"], values["secret"], values["endpoint_url"]) == ("k", "s", "http://lab")
    assert values["client_kwargs"] == {"region_name": "eu-west-9"} and "profile" not in values


def test_a_profile_that_is_not_there_is_a_user_error(no_aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ValueError, match=r"nobody.*AWS_PROFILE"):
        resolve_storage_options("s3://b/x", None)


def test_no_credentials_are_not_taken_for_anonymous_access(no_aws: None) -> None:
    assert not {"key", "secret", "anon"} & resolve_storage_options("s3://b/x", None).values.keys()


def test_local_paths_get_no_options(s3: S3Server) -> None:
    assert resolve_storage_options("/data/x", None).values == {}


class _Flaky(BaseHTTPRequestHandler):
    """An S3 endpoint that fails before it answers."""

    failures: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "reset":
            self.connection.close()
        elif failure == "short":
            self._answer(200, b"four", length=100)
            self.connection.close()
        elif failure:
            self._answer(int(failure), b"<Error><Code>SlowDown</Code><Message>slow</Message></Error>")
        else:
            self._answer(200, b"whole")

    def _answer(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def flaky(no_aws: None) -> Iterator[tuple[Storage, list[str]]]:
    """A storage on an endpoint, and the list of its coming failures."""
    failures: list[str] = []
    handler = type("Handler", (_Flaky,), {"failures": failures})
    endpoint = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=endpoint.serve_forever, daemon=True).start()
    options = {
        "key": "k",
        "secret": "s",
        "endpoint_url": f"http://127.0.0.1:{endpoint.server_port}",
        "config_kwargs": {"retries": {"total_max_attempts": 1}},
    }
    yield Storage.open("s3://b/x", StorageOptions(options)), failures
    endpoint.shutdown()
    endpoint.server_close()


@pytest.mark.parametrize("failure", ["503", "500", "reset", "short"])
def test_a_transient_failure_is_tried_again(flaky: tuple[Storage, list[str]], failure: str) -> None:
    folder, failures = flaky
    failures += [failure]
    assert folder.read_bytes(folder.join("a")) == b"whole"
    assert failures == []


@pytest.mark.parametrize("failure", ["503", "reset"])
def test_a_failure_is_not_taken_for_a_file_that_is_not_there(flaky: tuple[Storage, list[str]], failure: str) -> None:
    folder, failures = flaky
    failures += [failure] * 2
    assert folder.is_file(folder.join("a"))
    assert failures == []


def test_an_endpoint_that_never_answers_is_a_read_error(
    flaky: tuple[Storage, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_PATIENCE_S", 1.0)
    folder, failures = flaky
    failures += ["503"] * 1000
    with pytest.raises(ReadError, match=r"s3://b/x/a.*tried [0-9]+ times in"):
        folder.read_bytes(folder.join("a"))


@pytest.fixture
def broken(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Storage, FaultyProxy]]:
    """A folder on the real server, and the faulty way to it, with timeouts of four seconds."""
    proxy = FaultyProxy(s3.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    uri = f"s3://{s3.bucket}/broken"
    yield Storage.open(uri, resolve_storage_options(uri, '{"config_kwargs": {"read_timeout": 4}}')), proxy
    proxy.down()


@pytest.mark.parametrize("kind", ["cut_body", "short_body", "slow_down"])
def test_reads_at_random_give_the_right_bytes_through_faults(kind: Kind, broken: tuple[Storage, FaultyProxy]) -> None:
    folder, proxy = broken
    content = bytes(range(256)) * 40
    folder.write_bytes(folder.join("file"), content)
    proxy.faults = [Fault(kind=kind, method="GET", count=2), Fault(kind=kind, method="HEAD", count=1)]
    with folder.open_file(folder.join("file")) as file:
        assert file.seek(-1000, os.SEEK_END) == len(content) - 1000
        assert file.read(10) == content[-1000:-990]
        file.seek(5000)
        assert file.read() == content[5000:] and file.read(1) == b""
    assert proxy.broken[kind] == 3


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("PUT", "partNumber=2", "cut_upload"),
        ("POST", "uploadId=", "lost_answer"),
    ],
)
def test_uploads_in_parts_arrive_whole_through_faults(
    method: str, path: str, kind: Kind, broken: tuple[Storage, FaultyProxy]
) -> None:
    folder, proxy = broken
    content = np.random.default_rng(0).bytes(101 * 2**20)
    proxy.faults = [Fault(kind=kind, method=method, path=path, count=1)]
    folder.write_bytes(folder.join("large"), content)
    assert proxy.broken[kind] == 1 and sum("partNumber" in line for line in proxy.seen) >= 3
    assert folder.read_bytes(folder.join("large")) == content


def test_an_upload_that_stays_cut_leaves_the_file_of_before(
    broken: tuple[Storage, FaultyProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_PATIENCE_S", 1.0)
    folder, proxy = broken
    folder.write_bytes(folder.join("kept"), b"of before")
    proxy.faults = [Fault(kind="cut_upload", method="PUT")]
    with pytest.raises(ReadError, match=r"s3://.*/broken/kept"):
        folder.write_bytes(folder.join("kept"), bytes(1_000_000))
    assert folder.read_bytes(folder.join("kept")) == b"of before"


def test_a_full_disk_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught, open(tmp_path / "full", "wb", buffering=0) as file:
        file.write(b"1")
    error = final_error(caught.value, "/data/run/state.pt")
    assert isinstance(error, storage.NoSpaceError)
    assert str(error) == "no space left for /data/run/state.pt: free some, older checkpoints for example"


def test_a_file_beyond_the_largest_size_is_a_user_error(tmp_path: Path) -> None:
    """Under a real limit of the file size, in a process of its own."""
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from moco_ray.storage.storage import Storage, StorageOptions\n"
        "folder = Storage.open(sys.argv[1], StorageOptions({}))\n"
        "folder.write_bytes(folder.join('small'), bytes(1000))\n"
        "try:\n"
        "    folder.write_bytes(folder.join('small'), bytes(1001))\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "File too large" in done.stdout and "another path" in done.stdout
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {"small": 1000}
