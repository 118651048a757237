"""Serve the page of all runs until somebody stops it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from aiohttp import web

from moco_ray.storage.storage import StorageOptions
from moco_ray.web.app import EVERY_S, App
from moco_ray.web.guard import SHORTEST_TOKEN, TOKEN_VARIABLE, Access, is_loopback
from moco_ray.web.pages import Pages
from moco_ray.web.watch import Watch

_STOP_S = 2.0
_TRIED = 20


def access_of(host: str) -> Access:
    """Who is let in: on an address that others reach, only who knows the token.

    Args:
        host: The address to listen at.

    Raises:
        ValueError: The token of the environment could be guessed.
    """
    token = os.environ.get(TOKEN_VARIABLE) or None
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise ValueError(
            f"{TOKEN_VARIABLE} has {len(token)} characters, which could be guessed; use {SHORTEST_TOKEN} or more, "
            "or unset it"
        )
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    return Access(host, token)


def listen(host: str, port: int) -> socket.socket:
    """Take a port.

    Args:
        host: The address to listen at.
        port: Its number, 0 for any that is free.

    Raises:
        ValueError: It is taken, or may not be used, or the address is none of this machine.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"--port {port} is no port; use 1 to 65535, or 0 for any that is free")
    try:
        return _bound(host, port)
    except socket.gaierror as error:
        raise ValueError(f"--host {host}: nobody knows this host ({error.strerror}); use 127.0.0.1") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"port {port} of {host} is taken, perhaps by another --serve; use --port {_free_after(host, port)}, "
                "or --port 0 for any that is free"
            ) from error
        if error.errno == errno.EACCES:
            raise ValueError(f"port {port} may not be used; use one from 1024 on, such as --port 8080") from error
        raise ValueError(f"--host {host}: {error.strerror}; use an address of this machine") from error


def serve(
    watch: Watch, sock: socket.socket, access: Access, options: StorageOptions, say: Callable[[str], None]
) -> None:
    """Answer requests until the process is told to stop.

    Args:
        watch: Of the runs.
        sock: The port that was taken.
        access: Who is let in.
        options: Access to storage, whose values no page shows.
        say: Prints a line.

    Raises:
        KeyboardInterrupt: The process was told to stop.
    """
    with serving(watch, sock, access, options) as ended:
        for line in _words(sock, access):
            say(line)
        try:
            while not ended.wait(1.0):
                pass
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt("the page is closed; the runs are as they were") from error
    raise OSError("the server has ended by itself; what it said is above")


@contextmanager
def serving(
    watch: Watch, sock: socket.socket, access: Access, options: StorageOptions, every_s: float = EVERY_S
) -> Iterator[threading.Event]:
    """Inside, requests are answered, in a thread; gives what is set when that has ended."""
    hidden = StorageOptions({"token": access.token, **_secret_variables()})
    application = App(watch, Pages([options, hidden]), every_s).application(access)
    loop, ended = asyncio.new_event_loop(), threading.Event()
    thread = threading.Thread(target=_run, args=(loop, application, sock, ended), name="web", daemon=True)
    thread.start()
    try:
        yield ended
    finally:
        with suppress(RuntimeError):  # it has ended by itself
            loop.call_soon_threadsafe(loop.stop)
        thread.join(_STOP_S)


def _run(
    loop: asyncio.AbstractEventLoop, application: web.Application, sock: socket.socket, ended: threading.Event
) -> None:
    asyncio.set_event_loop(loop)
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # else whoever sends nonsense fills the screen
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    try:
        loop.run_until_complete(runner.setup())
        loop.run_until_complete(web.SockSite(runner, sock).start())
        loop.run_forever()
        loop.run_until_complete(asyncio.wait_for(runner.cleanup(), _STOP_S / 2))
    finally:
        ended.set()


def _words(sock: socket.socket, access: Access) -> list[str]:
    """What to say of the address."""
    port = sock.getsockname()[1]
    name = socket.gethostname() if access.host in ("0.0.0.0", "::") else access.host
    place = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    lines = [f"the runs are at http://{place}/{f'?token={access.token}' if access.token else ''}   (Ctrl-C ends it)"]
    if access.token and not access.is_local:
        lines.append("whoever has this address sees them; it is not encrypted: use it in a network you trust")
    here = os.environ.get("SSH_CONNECTION", "").split()
    if access.is_local and len(here) == 4:
        lines.append(f"from your own machine: ssh -L {port}:localhost:{port} {here[2]}, then the same address there")
    return lines


def _secret_variables() -> dict[str, str]:
    names = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _bound(host: str, port: int) -> socket.socket:
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    return sock


def _free_after(host: str, port: int) -> int:
    for other in range(port + 1, min(port + _TRIED, 65536)):
        with suppress(OSError):
            _bound(host, other).close()
            return other
    return 0
