"""Keys of S3 that expire: asked for again before they do and after a refusal, on the driver and wherever it shares them."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

_OWN_SHARE, _OTHERS_SHARE = (
    0.7,
    0.75,
)  # of the keys' life: whoever has a provider renews first, others find the new ones
_LONGEST_MARGIN_S = 600.0
_ASK_AGAIN_S, _ASK_OTHERS_AGAIN_S = 3.0, 0.5  # least pause between two questions: to a provider, to the driver
_SHARE_EVERY_S, _PUT_AGAIN_S, _JOIN_S = 2.0, 30.0, 10.0
_ANSWER_S = 60.0  # a provider that asks a person would block every read


@dataclass(frozen=True)
class Keys:
    """An access key with its secret. Never shows its values."""

    access_key: str = field(repr=False)
    """The access key."""
    secret: str = field(repr=False)
    """Its secret."""
    token: str | None = field(default=None, repr=False)
    """Session token of temporary keys."""
    expires_at: float | None = None
    """When they end, in seconds since 1970; None if nobody says."""

    @property
    def fingerprint(self) -> str:
        """Tells keys from others and says nothing of them."""
        return hashlib.sha256(f"{self.access_key}\n{self.secret}\n{self.token}".encode()).hexdigest()[:16]


class KeyStore(Protocol):
    """Where the processes of a run find what its driver shares: that of their cluster."""

    def get(self, name: str) -> bytes | None:
        """Read a value; None if there is none."""

    def put(self, name: str, value: bytes) -> None:
        """Replace a value."""

    def delete(self, name: str) -> None:
        """Delete a value, if there is one."""


class KeyRing:
    """The keys of one provider in one process; threads share it.

    Attributes:
        current: The newest keys.
        trouble: Why the provider gave none when it was asked last; None if it did.
        is_own: Whether this process asks the provider itself.
        waits: Whether somebody else is to renew them, who may be a little late: the driver, or who writes a file of them.
        has_worked: Whether something has worked with keys of this ring.
    """

    def __init__(self, name: str, keys: Keys, ask: Callable[[Keys], Keys | None], *, is_own: bool, waits: bool) -> None:
        """Hold the first keys.

        Args:
            name: Unique name of the provider, over all processes.
            keys: The keys to begin with.
            ask: Gives the newest keys; told of those that it should replace.
            is_own: Whether that asks the provider, and not another process.
            waits: Whether somebody else renews them.
        """
        self.name, self.current, self.is_own, self.waits = name, keys, is_own, waits
        self.trouble: str | None = None
        self.has_worked = False
        self._ask = ask
        self._lock = threading.Lock()
        self._since_s = time.time()
        self._last_s, self._next_s = 0.0, 0.0  # the last question, and before when no other is asked by itself
        self._pause_s = _ASK_AGAIN_S if is_own else _ASK_OTHERS_AGAIN_S

    def renew_if_due(self) -> None:
        """Ask for other keys if the current ones are about to expire."""
        if self._is_due():
            with self._lock:
                if self._is_due():
                    self._renew()

    def replace(self, refused: Keys) -> bool:
        """Ask for other keys because a server has refused these; returns whether there are others now."""
        with self._lock:
            if self.current == refused and time.time() > self._last_s + self._pause_s:
                self._renew()
            return self.current != refused

    def _is_due(self) -> bool:
        expires_at = self.current.expires_at
        if expires_at is None or time.time() < self._next_s:
            return False
        share = _OWN_SHARE if self.is_own else _OTHERS_SHARE
        margin_s = (1 - share) * max(0.0, expires_at - self._since_s)
        return time.time() > expires_at - min(margin_s, _LONGEST_MARGIN_S)

    def _renew(self) -> None:
        self._last_s = time.time()
        try:
            keys = _within(_ANSWER_S, lambda: self._ask(self.current))
            self.trouble = None
        except Exception as error:  # a provider fails in its own ways; the keys that are there may still be good
            keys, self.trouble = None, str(error) or type(error).__name__
        now = time.time()
        if keys is not None and keys != self.current:
            self.current, self._since_s = keys, now
        else:  # some providers keep their answer for a while
            self._next_s = now + max(self._pause_s, ((self.current.expires_at or now) - now) / 2)


def _within(patience_s: float, work: Callable[[], Keys | None]) -> Keys | None:
    """The result of work that is not waited for longer than that."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(work())
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=run, name="keys", daemon=True)
    thread.start()
    thread.join(patience_s)
    if not result:
        raise TimeoutError(f"no keys came within {patience_s:.0f} s")
    if isinstance(result[0], Exception):
        raise result[0]
    keys: Keys | None = result[0]
    return keys


class _Rings:
    """The rings of this process: by name, and by what their own provider is found with; and where it shares them."""

    def __init__(self) -> None:
        self.store: KeyStore | None = None
        self.lock = threading.RLock()
        self.by_name: dict[str, KeyRing] = {}
        self.by_provider: dict[Hashable, KeyRing] = {}


_RINGS = _Rings()


def share_through(store: KeyStore) -> None:
    """From now on keys are shared through this store, which pickled storage options carry to other processes."""
    _RINGS.store = store


def shared_store() -> KeyStore | None:
    """Where this process shares keys; None as long as it has no cluster."""
    return _RINGS.store


def own_ring(provider: Hashable, ask: Callable[[], Keys | None], *, waits: bool) -> KeyRing | None:
    """The ring of a provider that this process can ask; None if it gives no keys.

    Keys that say when they expire are kept until then; others are asked for at every call.

    Args:
        provider: What the provider is found with: two calls with the same share their keys.
        ask: Asks the provider.
        waits: Whether that reads what somebody else writes.
    """
    with _RINGS.lock:
        ring = _RINGS.by_provider.get(provider)
        if ring is not None and ring.current.expires_at is not None:
            ring.renew_if_due()
            if ring.current.expires_at > time.time():
                return ring
        keys = ask()
        if keys is None:
            return None
        if ring is None or ring.current != keys:
            ring = KeyRing(uuid.uuid4().hex, keys, lambda _: ask(), is_own=True, waits=waits)
            _RINGS.by_provider[provider] = _RINGS.by_name[ring.name] = ring
        return ring


def ring_of(name: str, first: Keys, store: KeyStore | None) -> KeyRing:
    """The ring of that name in this process; in one that has no provider, what the driver shares.

    Args:
        name: Of the ring on the driver.
        first: The keys to begin with.
        store: Where the driver shares them; None: nowhere.
    """
    with _RINGS.lock:
        if name not in _RINGS.by_name:
            _RINGS.by_name[name] = KeyRing(name, first, lambda old: _shared(name, old, store), is_own=False, waits=True)
        return _RINGS.by_name[name]


def _shared(name: str, old: Keys, store: KeyStore | None) -> Keys | None:
    """What the driver shares now; where that is nothing new, it is told that the old keys are refused or about to expire."""
    if store is None:
        return None
    content = store.get(_published(name))
    keys = Keys(**json.loads(content)) if content else None
    if keys is None or keys == old:
        store.put(_refused(name), old.fingerprint.encode())
    return keys


def _published(name: str) -> str:
    return f"keys-{name}/keys"


def _refused(name: str) -> str:
    return f"keys-{name}/refused"


@contextmanager
def sharing(rings: Iterable[KeyRing | None]) -> Iterator[None]:
    """Inside, keep the keys of own rings fresh for the processes of this driver's cluster.

    A thread renews those that are about to expire, or that another process says are refused, and publishes them in the
    cluster's key-value store: what Ray starts anywhere finds them there.
    """
    own = list({ring.name: ring for ring in rings if ring is not None and ring.is_own}.values())
    if not own:
        yield
        return
    ended = threading.Event()

    def keep_up() -> None:
        last_s: dict[str, float] = {}
        while True:
            for ring in own:
                with suppress(Exception):  # a head that is slow to answer; there is a next time
                    if (store := shared_store()) is not None:  # the cluster may still be starting
                        _share(ring, store, last_s)
            if ended.wait(_SHARE_EVERY_S):
                return

    thread = threading.Thread(target=keep_up, name="share keys", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_JOIN_S)
        for ring in own:
            with suppress(Exception):
                if (store := shared_store()) is not None:
                    store.delete(_published(ring.name))
                    store.delete(_refused(ring.name))


def _share(ring: KeyRing, store: KeyStore, last_s: dict[str, float]) -> None:
    """Renew keys if need be, and publish those that are new, or that were published long ago."""
    before = ring.current
    ring.renew_if_due()
    if store.get(_refused(ring.name)) == ring.current.fingerprint.encode():
        ring.replace(ring.current)
    if ring.current != before or time.monotonic() - last_s.get(ring.name, float("-inf")) > _PUT_AGAIN_S:
        keys = ring.current
        values = {"access_key": keys.access_key, "secret": keys.secret, "token": keys.token}
        store.put(_published(ring.name), json.dumps({**values, "expires_at": keys.expires_at}).encode())
        last_s[ring.name] = time.monotonic()
