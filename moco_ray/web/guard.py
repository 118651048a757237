"""Who may see the runs: those on this machine, or those with the token; and what a page may do in a browser."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from aiohttp import web
from aiohttp.typedefs import Middleware

log = logging.getLogger(__name__)
TOKEN_VARIABLE = "MOCO_RAY_TOKEN"
SHORTEST_TOKEN = 16
ICON = "/favicon.ico"
_PARAMETER = "token"
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
_YEAR_S = 365 * 24 * 3600

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "moco_ray",
    "X-Content-Type-Options": "nosniff",
}
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
REPORT_HEADERS = {
    "Content-Security-Policy": (
        "sandbox allow-scripts allow-popups; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "Cross-Origin-Opener-Policy": "unsafe-none",  # a page of its own, apart from ours
}
"""For files of a run's folder: they may show what they hold, see nothing of our pages, and ask nobody for anything."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Access:
    """Who is let in."""

    host: str
    """The address that is listened at."""
    token: str | None = None
    """What everybody must know; None: nothing, on an address that only this machine reaches."""

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the address."""
        return is_loopback(self.host)

    def has_good_host(self, header: str | None) -> bool:
        """Whether a request names this server: else a page elsewhere has made its own name one of this machine."""
        match = _HOST.fullmatch(header or "")
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        return not self.is_local or name in (*_LOCAL_NAMES, self.host.lower()) or is_loopback(name)

    def knows(self, token: str | None) -> bool:
        """Whether this is the token, in a time that tells nothing of it."""
        return self.token is None or hmac.compare_digest(_digest(token or ""), _digest(self.token))

    def is_let_in(self, request: web.Request) -> bool:
        """Whether a request comes with the cookie, or with the token in its Authorization header."""
        if self.token is None:
            return True
        kind, _, value = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self.knows(value.strip())
        cookie = request.cookies.get(cookie_name(request), "")
        return hmac.compare_digest(_digest(cookie), _digest(self.cookie))

    @property
    def cookie(self) -> str:
        """What a browser keeps in the place of the token."""
        return hmac.new((self.token or "").encode(), b"moco_ray cookie", hashlib.sha256).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether an address is one of this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def cookie_name(request: web.Request) -> str:
    """One for each port: browsers send the cookies of a host to all of its ports."""
    port = (request.headers.get("Host") or "").rpartition(":")[2]
    return f"moco_ray_{port if port.isdigit() else 80}"


def page_policy(nonce: str) -> str:
    """What our own pages may do: our styles and scripts, pictures and requests to this server, nothing else."""
    return (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src 'self'; connect-src 'self'; "
        "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def guard(access: Access) -> Middleware:
    """Everything that is asked of a request before a page sees it."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await _answer(request, handler, access)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Content-Security-Policy", _NOTHING)
        return response

    return check


async def _answer(request: web.Request, handler: Handler, access: Access) -> web.StreamResponse:
    if request.method not in ("GET", "HEAD"):
        return refusal(405, "only GET and HEAD: this page changes nothing", {"Allow": "GET, HEAD"})
    if not access.has_good_host(request.headers.get("Host")):
        return refusal(421, "this server goes by another name; use the address that it has printed")
    if access.token is not None and _PARAMETER in request.query:
        if not access.knows(request.query[_PARAMETER]):
            return refusal(403, "this is not the token; use the address that the server has printed")
        return _with_cookie(request, access)
    if request.path != ICON and not access.is_let_in(request):
        return refusal(403, "a token is needed; use the address that the server has printed")
    try:
        return await handler(request)
    except web.HTTPException as error:
        return refusal(error.status, "there is no such page" if error.status == 404 else error.reason)
    except Exception as error:  # of ours; whoever looks at another page need not see it
        log.warning(
            f"{request.rel_url.raw_path}: {type(error).__name__}: {error}", exc_info=log.isEnabledFor(logging.DEBUG)
        )
        return refusal(500, "this page failed; the server has said why")


def _with_cookie(request: web.Request, access: Access) -> web.Response:
    """The same page without the token in its address, which would stay in the browser's history."""
    rest = [(name, value) for name, value in parse_qsl(request.query_string) if name != _PARAMETER]
    path = "/" + request.rel_url.raw_path.lstrip("/")  # never another host's
    response = web.Response(status=303, headers={"Location": path + (f"?{urlencode(rest)}" if rest else "")})
    response.set_cookie(
        cookie_name(request), access.cookie, max_age=_YEAR_S, path="/", httponly=True, samesite="Strict"
    )
    return response


def refusal(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """A line of plain text."""
    return web.Response(status=status, text=f"{text}\n", headers=headers)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()
