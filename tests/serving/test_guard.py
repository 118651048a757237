"""Requests that are not meant well, sent as they are: nothing but pages of runs is answered, and no credentials."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from moco_ray.web.server import access_of, listen
from tests.s3 import S3Server, open_storage
from tests.serving.folders import Served, served, write_run, write_sweep

TOKEN = "a-token-that-nobody-guesses"
SECRET = "outside-of-every-report"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with reports, beside a file that is nobody's."""
    root = tmp_path_factory.mktemp("storage") / "runs"
    for name in ("a", "b c é'\"<b>%2F"):
        run = write_run(root, name)
        run.write_bytes(run.join("report", "index.html"), b"<!doctype html><title>report</title><p>of this run")
        run.write_bytes(run.join("report", "views.png"), b"\x89PNG")
        run.write_bytes(run.join("report", "tool.bin"), b"\x00")
    (root / "secret.txt").write_text(SECRET)
    (root.parent / "secret.txt").write_text(SECRET)
    (root / "a" / "secret.txt").write_text(SECRET)
    (root / "a" / "report" / "link.txt").symlink_to(root.parent / "secret.txt")
    (root / "a" / "report" / "folder").symlink_to(root.parent)
    write_sweep(root, "search", 2)
    return root


@pytest.fixture(scope="module")
def local(root: Path) -> Iterator[Served]:
    with served(root) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(root: Path) -> Iterator[Served]:
    with served(root, token=TOKEN) as server:
        yield server


WAYS_OUT = [
    "/run/a/report/../secret.txt",
    "/run/a/report/%2e%2e/secret.txt",
    "/run/a/report/..%2fsecret.txt",
    "/run/a/report/%2e%2e%2fsecret.txt",
    "/run/a/report/%252e%252e%252fsecret.txt",
    "/run/a/report/..\\secret.txt",
    "/run/a/report//ROOT/secret.txt",
    "/run/a/report/%2fROOT/secret.txt",
    "/run/a/report/file:%2f%2fROOT/secret.txt",
    "/run/a/report/link.txt",
    "/run/a/report/folder/secret.txt",
    "/run/a/report/",
    "/run/a/report/./../secret.txt",
    "/run/a/secret.txt",
    "/run/a/config.json",
    "/run/../secret.txt",
    "/run/%2e%2e/report/secret.txt",
    "/run/./report/secret.txt",
    "/run//report/secret.txt",
    "/run//ROOT/a/report/secret.txt",
    "/sweep/../report.html",
    "/sweep/%2e%2e/report.html",
    "/sweep/a/report.html",
    "/sweep/search%2f../report.html",
    "/static/../guard.py",
    "/static/%2e%2e/guard.py",
    "/static/..%2fguard.py",
    "//etc/passwd",
    "/../../../../etc/passwd",
]


@pytest.mark.parametrize("way", WAYS_OUT)
def test_no_path_leads_out_of_a_report(local: Served, root: Path, way: str) -> None:
    answer = local.get(way.replace("ROOT", str(root.parent)))
    assert answer.status in (400, 404), (way, answer.text)
    assert SECRET not in answer.text and "root:" not in answer.text and "def " not in answer.text


def test_no_path_leads_out_of_a_report_in_a_bucket(s3: S3Server) -> None:
    uri = f"s3://{s3.bucket}/guarded"
    run = write_run(uri, "a")
    run.write_bytes(run.join("report", "index.html"), b"<p>of this run")
    for folder in (run.root, run.root.rsplit("/", 1)[0], s3.bucket):
        run.write_bytes(f"{folder}/secret.txt", SECRET.encode())
    with served(uri) as server:
        assert server.get("/run/a/report/index.html").text == "<p>of this run"
        for way in WAYS_OUT:
            answer = server.get(way.replace("ROOT", f"{s3.bucket}/guarded"))
            assert answer.status in (400, 404) and SECRET not in answer.text, way


def test_files_of_a_report_are_shown_apart_from_our_pages(local: Served) -> None:
    answer = local.get("/run/a/report/index.html")
    policy = answer.headers["Content-Security-Policy"]
    assert (
        answer.status == 200 and "of this run" in answer.text and answer.headers["Content-Type"].startswith("text/html")
    )
    assert "sandbox" in policy and "allow-same-origin" not in policy and "default-src 'none'" in policy
    assert local.get("/run/a/report/views.png").headers["Content-Type"] == "image/png"
    other = local.get("/run/a/report/tool.bin")
    assert (
        other.headers["Content-Type"] == "application/octet-stream"
        and "attachment" in other.headers["Content-Disposition"]
    )
    assert "best trial" in local.get("/sweep/search/report.html").text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "CONNECT"])
def test_nothing_can_be_changed(local: Served, method: str) -> None:
    answer = local.get("/" if method != "CONNECT" else "example.org:443", method=method)
    assert answer.status in (400, 405)
    assert method in ("CONNECT",) or answer.headers["Allow"] == "GET, HEAD"


def test_head_is_get_without_a_body(local: Served) -> None:
    answer = local.get("/", method="HEAD")
    assert answer.status == 200 and answer.body == b"" and int(answer.headers["Content-Length"]) > 1000


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:PORT", "127.0.0.1.evil.example", "localhost@evil", "10.0.0.1", ""]
)
def test_other_names_for_this_machine_are_refused(local: Served, host: str) -> None:
    answer = local.get("/", host=host.replace("PORT", str(local.port)))
    assert answer.status in (400, 421) and "run/a" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1", "[::1]:8080"])
def test_its_own_names_are_answered_behind_any_port(local: Served, host: str) -> None:
    assert local.get("/", host=host).status == 200


def test_every_answer_forbids_what_pages_do_not_need(local: Served) -> None:
    for path in ("/", "/compare?run=a", "/run/a", "/api/runs.json", "/nowhere", "/static/live.js"):
        headers = local.get(path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"], path
        assert (
            "unsafe-inline" not in headers["Content-Security-Policy"]
            and "'self'" not in headers["Content-Security-Policy"].partition("script-src")[2].partition(";")[0]
        )
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin" and "aiohttp" not in headers["Server"]
        assert "Access-Control-Allow-Origin" not in headers


def test_names_cannot_become_markup(local: Served) -> None:
    for path in ("/", "/?q=%3Cscript%3Ealert(1)%3C/script%3E", "/compare?run=%3Cscript%3E", "/run/%3Cscript%3E"):
        text = local.get(path).text
        assert "<b>%2F" not in text and "<script>" not in text, path
    assert local.get("/run/b%20c%20%C3%A9'%22%3Cb%3E%252F/report/index.html").status == 200


def test_without_the_token_nothing_is_shown(guarded: Served) -> None:
    for path in (
        "/",
        "/api/runs.json",
        "/run/a",
        "/run/a/report/index.html",
        "/static/live.js",
        "/nowhere",
        "/?token=",
        "/?token=x",
    ):
        answer = guarded.get(path)
        assert answer.status == 403 and "optim" not in answer.text and TOKEN not in answer.text, path
    port = guarded.port
    for headers in (
        {"Cookie": f"moco_ray_{port}={TOKEN}"},  # the cookie is not the token
        {"Cookie": f"moco_ray_{port}="},
        {"Authorization": "Bearer x"},
        {"Authorization": f"Basic {TOKEN}"},
    ):
        assert guarded.get("/", **headers).status == 403, headers


def test_the_token_is_taken_out_of_the_address_and_kept_in_a_cookie(guarded: Served) -> None:
    answer = guarded.get(f"/compare?run=a&token={TOKEN}&run=b+c")
    cookie = answer.headers["Set-Cookie"]
    assert answer.status == 303 and answer.headers["Location"] == "/compare?run=a&run=b+c"
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
    assert guarded.get("/run/a", Cookie=cookie.split(";")[0]).status == 200
    assert guarded.get("/api/runs.json", Authorization=f"Bearer {TOKEN}").status == 200
    assert guarded.get(f"//evil.example/?token={TOKEN}").headers["Location"].startswith("/evil.example")


def test_an_address_that_others_reach_has_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOCO_RAY_TOKEN", raising=False)
    assert access_of("127.0.0.1").token is None and access_of("localhost").token is None
    tokens = {access_of(host).token for host in ("0.0.0.0", "::", "10.0.0.1", "some.host")}
    assert len(tokens) == 4 and all(token is not None and len(token) >= 32 for token in tokens)
    monkeypatch.setenv("MOCO_RAY_TOKEN", TOKEN)
    assert access_of("0.0.0.0").token == TOKEN and access_of("127.0.0.1").token == TOKEN
    monkeypatch.setenv("MOCO_RAY_TOKEN", "short")
    with pytest.raises(ValueError, match="could be guessed"):
        access_of("0.0.0.0")


def test_nonsense_ends_no_server(local: Served) -> None:
    for nonsense in (
        b"\x00\xff\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET " + b"a" * 20000 + b" HTTP/1.1\r\n\r\n",
        b"GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", local.port), timeout=10) as connection:
            connection.sendall(nonsense)
            connection.recv(100)
    assert local.get("/").status == 200
    assert local.get("/?page=99999&sort=-nothing&state=x&open=y").status == 200
    assert local.get("/compare?" + "&".join(f"run=r{i}" for i in range(200))).status == 200


def test_no_page_shows_credentials(s3: S3Server, root: Path) -> None:
    uri = f"s3://{s3.bucket}/with-keys"
    run = write_run(uri, "a", steps=10)
    values = json.loads(run.read_bytes(run.join("config.json")))
    values["data"] |= {"storage_options": '{"secret": "hush1"}', "uri": "https://me:hush2@host/a?X-Amz-Signature=hush3"}
    values["run"]["storage_options"] = '{"secret": "hush4"}'
    values["eval"]["uri"] = f"https://host/{s3.secret}/x"
    run.write_bytes(run.join("config.json"), json.dumps(values).encode())
    line = {"cause": f"lost s3://me:hush5@host/ {s3.secret}", "resumed_at_step": 4, "seconds": 1.0, "steps_redone": 2}
    run.write_bytes(run.join("interruptions.jsonl"), json.dumps(line).encode() + b"\n")
    end = {"state": "failed", "reason": f"https://host/?token=hush6 refuses {s3.secret}"}
    run.write_bytes(run.join("end.json"), json.dumps(end).encode())
    write_run(uri, "b")
    with served(uri) as server:
        pages = {
            path: server.get(path) for path in ("/", "/run/a", "/compare?run=a&run=b", "/api/runs.json", "/?q=hush")
        }
    assert all(page.status == 200 for page in pages.values())
    assert "interrupted" in pages["/run/a"].text or "lost" in pages["/run/a"].text
    for path, page in pages.items():
        assert "hush" not in page.text.replace("?q=hush", "").replace('value="hush"', ""), path
        assert s3.secret not in page.text and s3.key not in page.text, path


def test_a_port_that_is_taken_is_named_with_another_one() -> None:
    with listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1 is taken.*use --port [1-9]"):
            listen("127.0.0.1", port)
    for host, port, message in (
        ("nobody.invalid", 0, "--host nobody.invalid"),
        ("203.0.113.7", 0, "an address of this machine"),
        ("127.0.0.1", 70000, "no port"),
    ):
        with pytest.raises(ValueError, match=message):
            listen(host, port)


def test_storage_is_opened_for_reading_alone(local: Served, root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    for path in ("/", "/run/a", "/compare?run=a&run=search/trial_000"):
        local.get(path)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert open_storage(str(root)).exists(str(root / "a"))
