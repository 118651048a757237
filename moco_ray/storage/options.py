"""Access to storage: options of a user, and keys of the AWS environment that every process of a run can use."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moco_ray.config.paths import local_path
from moco_ray.storage import keys
from moco_ray.storage import s3 as s3_files
from moco_ray.storage.keys import KeyRing, Keys, KeyStore
from moco_ray.storage.uris import ARCHIVES, CACHES, HTTP, S3, shown, split_uri

# Options of S3 that no other file system knows, but that stand beside the addresses of others in a list or a command.
_OF_S3 = frozenset(
    "key secret token anon profile endpoint_url config_kwargs region_name use_ssl requester_pays s3_additional_kwargs "
    "version_aware default_block_size default_fill_cache default_cache_type fill_cache".split()
)


@dataclass(frozen=True)
class StorageOptions:
    """Keyword options of an fsspec file system. May hold credentials, so it never shows its values."""

    values: Mapping[str, Any]
    """The options."""
    ring: str | None = None
    """Name of the keys, where other ones may take their place; those of `values` are the first of them."""
    expires_at: float | None = field(default=None, repr=False)
    """When the first keys end, in seconds since 1970."""
    _store: KeyStore | None = field(default=None, repr=False, compare=False)
    """Where other processes find newer keys; it comes along where these options are sent there."""

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to another process."""
        return {**self.__dict__, "_store": self._store or keys.shared_store()}

    def __repr__(self) -> str:
        """Names only."""
        return f"StorageOptions({', '.join(sorted(self.values))})"

    def key_ring(self) -> KeyRing | None:
        """The keys, as they are now in this process; None if they are those of the node, or there are none."""
        if self.ring is None:
            return None
        key, secret, token = (self.values.get(name) for name in ("key", "secret", "token"))
        return keys.ring_of(self.ring, Keys(str(key), str(secret), token, self.expires_at), self._store)


def resolve_storage_options(uri: str, options: str | None) -> StorageOptions:
    """Decide, on the driver, with which options every process opens a URI.

    For s3:// what is not given comes from the standard AWS environment or profile, so that nodes without any need
    none; keys that expire are asked for again when they do, here, for all nodes. Credentials of an instance or container
    role are left to each node.

    Args:
        uri: The URI to open. Of a chain, options are those of what it begins from, but for objects under the name of one
            of its other protocols.
        options: A JSON object of fsspec options, a file with one, or None.

    Raises:
        ValueError: The options are no JSON object, or the AWS profile gives no keys.
    """
    values = _parse_options(options)
    parts = split_uri(uri)
    while parts.inner is not None:
        parts = split_uri(parts.inner)
    nested = values.pop(parts.protocol, None)
    values |= nested if isinstance(nested, dict) else {}
    if parts.protocol in S3:
        return _resolve_s3(values, options)
    if parts.protocol in HTTP:
        values = _without_s3(values)
        if isinstance(client := values.get("client_kwargs"), dict):
            values["client_kwargs"] = _without_s3(client)
    if parts.protocol == "file":
        values = {name: value for name, value in values.items() if name in (*ARCHIVES, *CACHES)}
    return StorageOptions(values)


def _without_s3(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _OF_S3}


def _resolve_s3(values: dict[str, Any], options: str | None) -> StorageOptions:
    def ask() -> Keys | None:
        given = _parse_options(options)  # a file may hold other ones now
        return s3_files.find_keys({**given, **{name: values[name] for name in ("profile", "anon") if name in values}})

    is_file = options is not None and not options.lstrip().startswith("{")
    ring = keys.own_ring((options, s3_files.aws_environment()), ask, waits=is_file)
    values = s3_files.with_aws_defaults(values)
    if ring is None:
        return StorageOptions(values)
    now = ring.current
    values |= {"key": now.access_key, "secret": now.secret, "token": now.token}
    return StorageOptions(values, ring.name, now.expires_at)


def check_options(field: str, options: str | None) -> None:
    """Check that storage options can be read.

    Args:
        field: The flag or field that holds them, for the message.
        options: As for `resolve_storage_options`.

    Raises:
        ValueError: They cannot.
    """
    try:
        _parse_options(options)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def _parse_options(options: str | None) -> dict[str, Any]:
    """Read options. They may be keys, however they are written: no message shows more than the name of a file."""
    if options is None:
        return {}
    text, what = _content(options)
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} is no valid JSON (character {error.pos})") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{what} is no valid JSON") from None
    if not isinstance(values, dict):
        raise ValueError(f"{what} is JSON, but no object of option names and values")
    return values


def _content(options: str) -> tuple[str | bytes, str]:
    """The JSON, and what it is called in messages."""
    if options.lstrip().startswith("{"):
        return options, "storage-options"
    path = local_path(options)
    if not os.path.isfile(path):  # an OSError would show the value
        raise ValueError(
            "storage-options is neither a JSON object nor the path of a file with one: there is no such file"
        )
    try:
        return Path(path).read_bytes(), f"storage-options: the file {shown(path)}"
    except OSError as error:
        raise ValueError(f"storage-options: the file {shown(path)} cannot be read: {error.strerror}") from None
