"""Paths and names of any bytes, as the text that configurations hold."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

LOCAL = ("file", "local")
"""Protocols of local paths."""
BYTES = "file-bytes"
"""Protocol of local names that are not UTF-8: file-bytes:///data/caf%E9.jpg, every odd byte as %XX."""

PATHS = (
    "data.uri",
    "data.storage_options",
    "data.exclude",
    "detection.annotations",
    "detection.test_annotations",
    "eval.uri",
    "model.init",
    "run.storage_path",
    "run.storage_options",
)
"""Fields of a configuration that hold paths or URIs."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOST_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/?(?=[^:/])")
_FILE = re.compile(rf"({'|'.join(LOCAL)}):(//localhost(?=/)|//|(?=/))", re.IGNORECASE)  # RFC 8089, and relative paths


def local_path(uri: str) -> str:
    """The absolute path of a local URI; bytes that are not UTF-8 are surrogates, as everywhere in Python."""
    if uri.startswith(f"{BYTES}://"):
        path = os.fsdecode(unquote_to_bytes(uri[len(BYTES) + 3 :]))
    else:
        path = _SCHEME.sub("", _FILE.sub("", uri, count=1), count=1)
    return os.path.abspath(os.path.expanduser(path))


def local_uri(path: str) -> str:
    """The URI of a local path: the path itself, if its name is UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"{BYTES}://{quote_from_bytes(os.fsencode(path))}"
    return path


def is_same_path(one: str | None, other: str | None) -> bool:
    """Whether two paths or URIs lead to the same weights: other spellings of one, or a run's folder and its encoder."""
    return one is not None and other is not None and _plain(one) == _plain(other)


def _plain(uri: str) -> str:
    protocol = uri.partition("://")[0] if _SCHEME.match(uri) else "file"
    return re.sub(r"/+(encoder\.safetensors)?$", "", local_path(uri) if protocol.lower() in LOCAL else uri)


def as_uri(field: str, value: Any) -> Any:
    """A path that was given to the Python interface, as text; None stays.

    Raises:
        ValueError: It is neither text nor a path, or a URL that pathlib has changed.
    """
    if value is None:
        return value
    if not isinstance(value, str | os.PathLike):
        is_secret = field.endswith("options")
        raise ValueError(
            f"{field} is {'' if is_secret else f'{value!r}, '}a {type(value).__name__}; use text or a pathlib.Path"
        )
    text = os.fsdecode(value)
    found = _LOST_SLASH.match(text)
    if isinstance(value, os.PathLike) and found and found[0].endswith("/"):
        raise ValueError(f"{field} is {value!r}: pathlib makes one slash of two, so give a URL as text")
    if not field.endswith("options"):  # they are no place, and may be credentials
        check_slashes(text, field)
        text = _plain_file(text)
    if text == text.encode("utf-8", "replace").decode():
        return text
    return local_uri(local_path(text))


def check_slashes(uri: str, field: str = "") -> None:
    """Refuse a URL that has lost slashes: it would be a local path.

    Raises:
        ValueError: It is one of a protocol that fsspec knows.
    """
    for part in uri.split("::"):
        if (found := _LOST_SLASH.match(part)) is None or found[1].lower() in LOCAL:
            continue
        from fsspec import available_protocols  # here, because it takes a while

        if found[1].lower() in available_protocols():
            has = "one slash" if found[0].endswith("/") else "no slashes"
            raise ValueError(
                f"{field and f'{field} '}{part} has {has}; write {found[1]}://{part[found.end() :]}, or ./{part} for a "
                "local path of this name"
            )


def _plain_file(text: str) -> str:
    """A URL of a local file as most programs write it, file:///path; all else as it is."""
    found = _FILE.match(text)
    return f"{found[1]}://{text[found.end() :]}" if found and found[2] != "//" else text


def take_paths(config: Any, fields: Sequence[str]) -> None:
    """Make text of pathlib's paths and of names that are not UTF-8: for all of a configuration, here and nowhere else.

    Args:
        config: Frozen, and changed in place while it is being made.
        fields: GROUP.NAME of its fields that hold paths.
    """
    for path in fields:
        group, name = path.split(".")
        value = getattr(getattr(config, group), name)
        if (text := as_uri(path.replace("_", "-"), value)) is not value:
            object.__setattr__(config, group, dataclasses.replace(getattr(config, group), **{name: text}))
