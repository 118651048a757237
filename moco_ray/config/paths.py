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
    "eval.uri",
    "model.init",
    "run.storage_path",
    "run.storage_options",
)
"""Fields of a configuration that hold paths or URIs."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOST_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]")


def local_path(uri: str) -> str:
    """The absolute path of a local URI; bytes that are not UTF-8 are surrogates, as everywhere in Python."""
    if uri.startswith(f"{BYTES}://"):
        path = os.fsdecode(unquote_to_bytes(uri[len(BYTES) + 3 :]))
    else:
        path = _SCHEME.sub("", uri, count=1) if _SCHEME.match(uri) else uri
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
    if value is None or (isinstance(value, str) and value.isascii()):
        return value
    if not isinstance(value, str | os.PathLike):
        is_secret = field.endswith("options")
        raise ValueError(
            f"{field} is {'' if is_secret else f'{value!r}, '}a {type(value).__name__}; use text or a pathlib.Path"
        )
    text = os.fsdecode(value)
    if isinstance(value, os.PathLike) and _LOST_SLASH.match(text):
        raise ValueError(f"{field} is {value!r}: pathlib makes one slash of two, so give a URL as text")
    if text == text.encode("utf-8", "replace").decode():
        return text
    return local_uri(local_path(text))


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
