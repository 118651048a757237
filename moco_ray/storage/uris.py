"""Where something lies, as text: protocols, chains of them, and names of any bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moco_ray.config.paths import BYTES, LOCAL, check_slashes, local_path, local_uri

if TYPE_CHECKING:
    from moco_ray.storage.options import StorageOptions  # which imports this module

S3 = ("s3", "s3a")
HTTP = ("http", "https")
ARCHIVES = ("zip", "tar")
CACHES = ("simplecache", "filecache", "blockcache")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BEGIN = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]*://|({'|'.join((*ARCHIVES, *CACHES))})::|[/~]")
_WRAPPER = re.compile(rf"({'|'.join((*ARCHIVES, *CACHES))})(://|::)")

_SHORTEST_SECRET = 6
_SECRET_NAME = re.compile(r"key|secret|token|password|passwd|credential|signature|sas|auth", re.IGNORECASE)
_USER_OF_URL = re.compile(r"(?<=://)[^/\s]+@")
# Marks that end it in a sentence do not where a name or a value follows. What was taken out already stays as it is.
_QUERY_OF_URL = re.compile(r"(\w+://[^\s?]+)\?(?!…)(?:[^\s'\"]*[=&])?[^\s;,)'\"]+")


@dataclass(frozen=True)
class Parts:
    """A URI, taken apart. Names are literal: no escapes, no globs."""

    protocol: str
    """In lower case; "file" for local paths."""
    path: str
    """What lies there: absolute for local paths, the whole URL for http, the name inside, behind a slash, for an archive."""
    inner: str | None = None
    """URI of the archive or of the cached place, for zip://, tar:// and the caches."""


def split_uri(uri: str) -> Parts:
    """Take a URI apart.

    Raises:
        ValueError: A chain does not say what it begins from, or a URL lacks slashes.
    """
    protocol = protocol_of(uri)
    if protocol == "file":
        check_slashes(uri)
        return Parts(protocol, local_path(uri))
    if protocol in HTTP:
        return Parts(protocol, uri)
    if _WRAPPER.match(uri) is None:
        return Parts(protocol, uri.split("://", 1)[1])
    rest = uri[len(protocol) :]
    place = _end_of_name(rest)
    if place is None:
        raise ValueError(
            f"{shown(uri)} does not say where the {'archive' if protocol in ARCHIVES else 'original'} lies; write "
            f"{_example(protocol)}"
        )
    inner = rest[place + 2 :]
    if protocol in ARCHIVES:
        name = rest[:place].removeprefix("://").strip("/")
        return Parts(protocol, "/" if name in ("*", "**") else f"/{name}", inner)
    return Parts(protocol, split_uri(inner).path, inner)


def _end_of_name(rest: str) -> int | None:
    """Where the "::" stands after which an outer URI goes on, since names may hold "::", too."""
    places = [found.start() for found in re.finditer("(?=::)", rest) if rest[found.start() + 2 :]]
    urls = [place for place in places if _BEGIN.match(rest, place + 2)]
    return urls[0] if urls else places[-1] if places else None


def _example(protocol: str) -> str:
    return (
        f"{protocol}://::s3://bucket/images.{protocol}" if protocol in ARCHIVES else f"{protocol}::s3://bucket/images"
    )


def protocol_of(uri: str) -> str:
    """The first protocol of a URI, in lower case; "file" for local paths."""
    if (wrapper := _WRAPPER.match(uri)) is not None:
        return wrapper[1]
    found = _SCHEME.match(uri)
    protocol = found[0][:-3].lower() if found else "file"
    return "file" if protocol in (*LOCAL, BYTES) else protocol


def file_system_of(uri: str) -> tuple[str, ...]:
    """What must be equal for two URIs to be read through one file system: protocols, and the archive if there is one."""
    protocol = protocol_of(uri)
    if _WRAPPER.match(uri) is None:
        return ("http" if protocol in HTTP else protocol,)
    parts = split_uri(uri)
    assert parts.inner is not None
    return (protocol, *((parts.inner,) if parts.protocol in ARCHIVES else file_system_of(parts.inner)))


def origin_of(uri: str) -> str:
    """The protocol of what a URI begins from, http for https; of a chain, that of its end."""
    parts = split_uri(uri)
    while parts.inner is not None:
        parts = split_uri(parts.inner)
    return "http" if parts.protocol in HTTP else parts.protocol


def check_place(uri: str) -> None:
    """Refuse an address of S3 without a bucket, or of http without a host.

    Raises:
        ValueError: It is one.
    """
    protocol, path = protocol_of(uri), uri.partition("://")[2]
    if protocol in (*S3, *HTTP) and re.match(r"[/?#:]|$", path):
        what, example = ("bucket", "bucket") if protocol in S3 else ("host", "example.org")
        raise ValueError(f"{shown(uri)} names no {what}; write {protocol}://{example}/folder")


def is_local(uri: str) -> bool:
    """Whether a URI is a local path, however it is written."""
    return protocol_of(uri) == "file"


def plain_path(uri: str) -> str:
    """The path of a local image, which is its own URI in most lists."""
    return uri if uri.startswith("/") else local_path(uri)


def base_of(uri: str) -> str:
    """What the URIs of files in a folder begin with, without a slash at the end."""
    parts = split_uri(uri)
    if parts.protocol == "file":
        return local_uri(parts.path).rstrip("/")
    if parts.inner is None:
        return parts.path.rstrip("/") if parts.protocol in HTTP else f"{parts.protocol}://{parts.path.rstrip('/')}"
    return (
        f"{parts.protocol}:/{parts.path}" if parts.protocol in ARCHIVES else f"{parts.protocol}::{base_of(parts.inner)}"
    )


def shown(text: str) -> str:
    """A name for people: one line, with what cannot be printed as escapes."""
    if text.isprintable():  # so surrogates are not
        return text
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def without_secrets(text: str, options: Iterable[StorageOptions] = ()) -> str:
    """A text without the credentials of options, and without those that URLs may hold."""
    for one in options:
        for secret in sorted(_secrets(one.values), key=len, reverse=True):
            text = text.replace(secret, "…")
    return _QUERY_OF_URL.sub(r"\1?…", _USER_OF_URL.sub("…@", text))


def _secrets(values: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _secrets(value)
        elif isinstance(value, str) and len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name):
            found.add(value)
    return found


def known_protocols() -> list[str]:
    """Protocols that can be opened here: those of fsspec whose packages are installed."""
    import fsspec

    found = []
    for protocol in fsspec.available_protocols():
        try:
            fsspec.get_filesystem_class(protocol)
        except (ImportError, ValueError):
            continue
        found.append(protocol)
    return sorted(found)
