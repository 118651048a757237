"""An S3 server whose keys expire: a proxy that judges session tokens, signs anew and passes on; and a provider of such keys."""

from __future__ import annotations

import http.client
import json
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.s3 import S3Server

_TOKEN = "until-"
_KEPT = ("content-type", "range", "x-amz-meta", "content-md5", "x-amz-copy")


@dataclass(kw_only=True)
class ExpiringS3:
    """The proxy, and what it has seen."""

    server: S3Server
    """The real server."""
    endpoint: str = ""
    """Where clients send their requests."""
    answers: Counter[str] = field(default_factory=Counter)
    """How often each code was answered instead of passing a request on."""
    refuses_checksums: bool = False
    """Whether it knows none of the newer checksums, as many servers do not."""
    only_tokens: bool = True
    """Whether requests need a session token."""
    code: str = ""
    """A code to answer every request with; empty for none."""


@contextmanager
def expiring_s3(server: S3Server) -> Iterator[ExpiringS3]:
    """Listen on a free port before a server."""
    proxy = ExpiringS3(server=server)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    listener = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    listener.daemon_threads = True
    proxy.endpoint = f"http://127.0.0.1:{listener.server_port}"
    threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield proxy
    finally:
        listener.shutdown()
        listener.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    proxy: ExpiringS3

    def handle_expect_100(self) -> bool:
        self.send_response_only(100)
        self.end_headers()
        self.wfile.flush()
        return True

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        code = self._refusal()
        if code:
            self.proxy.answers[code] += 1
            status = {"ExpiredToken": 400, "InvalidToken": 400, "NotImplemented": 501, "PermanentRedirect": 301}
            text = f"<Error><Code>{code}</Code><Message>refused by the test</Message></Error>".encode()
            return self._answer(status.get(code, 403), [("Content-Type", "application/xml")], text)
        url = f"{self.proxy.server.endpoint}{self.path}"
        kept = {name: value for name, value in self.headers.items() if name.lower().startswith(_KEPT)}
        request = AWSRequest(self.command, url, data=body, headers=kept)
        request.context["payload_signing_enabled"] = True
        S3SigV4Auth(Credentials(self.proxy.server.key, self.proxy.server.secret), "s3", "us-east-1").add_auth(request)
        upstream = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        upstream.request(self.command, self.path, body=body, headers=dict(request.headers.items()))
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        return self._answer(answer.status, answer.getheaders(), content)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _refusal(self) -> str:
        if self.proxy.code:
            return self.proxy.code
        names = [name.lower() for name in self.headers]
        if self.proxy.refuses_checksums and any(name.startswith(("x-amz-checksum", "x-amz-trailer")) for name in names):
            return "NotImplemented"
        token = self.headers.get("X-Amz-Security-Token")
        if token is None:
            return "InvalidAccessKeyId" if self.proxy.only_tokens else ""
        if not token.startswith(_TOKEN):
            return "InvalidToken"
        return "" if time.time() < float(token.removeprefix(_TOKEN)) else "ExpiredToken"

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD" and status == 200:
                length = value
            elif name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command != "HEAD" or status == 200 else "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Provider:
    """A credential_process, as a sign-on of a company installs one."""

    environment: Mapping[str, str]
    """What a user would export."""
    log: Path
    """A line for each time that it was asked."""
    life: Path
    """Holds how many seconds its keys live; "no" to give none."""

    @property
    def num_asked(self) -> int:
        """How often it was asked."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


def make_provider(folder: Path, endpoint: str, life_s: float) -> Provider:
    """Write a program that gives keys, and the AWS configuration that names it."""
    log, life, program = folder / "asked.log", folder / "life", folder / "keys.py"
    life.write_text(str(life_s))
    program.write_text(
        f"#!{sys.executable} -SE\n"
        "import datetime, json, sys, time\n"
        f"open({str(log)!r}, 'a').write(f'{{time.time()}}\\n')\n"
        f"life = open({str(life)!r}).read()\n"
        "if life == 'no': sys.exit('please sign in again')\n"
        "end = time.time() + float(life)\n"
        "when = datetime.datetime.fromtimestamp(end, datetime.timezone.utc).isoformat()\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': 'TEMPORARY', 'SecretAccessKey': 'hush-hush-hush',\n"
        f"    'SessionToken': f'{_TOKEN}{{end}}', 'Expiration': when}}))\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (folder / "config").write_text(
        f"[profile work]\nregion = us-east-1\nendpoint_url = {endpoint}\ncredential_process = {program}\n"
    )
    environment = {
        "AWS_CONFIG_FILE": str(folder / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
        "AWS_PROFILE": "work",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return Provider(environment=environment, log=log, life=life)


def keys_json(endpoint: str, expires_at: float) -> str:
    """Storage options with keys that end at that time."""
    keys = {"key": "TEMPORARY", "secret": "hush-hush-hush", "token": f"{_TOKEN}{expires_at}"}
    return json.dumps({**keys, "endpoint_url": endpoint, "client_kwargs": {"region_name": "us-east-1"}})
