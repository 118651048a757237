"""Access to storage: options of a user, and keys of the AWS environment that every process of a run can use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moco_ray.data import keys, s3_files
from moco_ray.data.keys import KeyRing, Keys
from moco_ray.data.uris import ARCHIVES, CACHES, S3, split_uri


@dataclass(frozen=True)
class StorageOptions:
    """Keyword options of an fsspec file system. May hold credentials, so it never shows its values."""

    values: Mapping[str, Any]
    """The options."""
    ring: str | None = None
    """Name of the keys, where other ones may take their place; those of `values` are the first of them."""
    expires_at: float | None = field(default=None, repr=False)
    """When the first keys end, in seconds since 1970."""

    def __repr__(self) -> str:
        """Names only."""
        return f"StorageOptions({', '.join(sorted(self.values))})"

    def key_ring(self) -> KeyRing | None:
        """The keys, as they are now in this process; None if they are those of the node, or there are none."""
        if self.ring is None:
            return None
        key, secret, token = (self.values.get(name) for name in ("key", "secret", "token"))
        return keys.ring_of(self.ring, Keys(str(key), str(secret), token, self.expires_at))


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
    if parts.protocol == "file":
        values = {name: value for name, value in values.items() if name in (*ARCHIVES, *CACHES)}
    return StorageOptions(values)


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


def _parse_options(options: str | None) -> dict[str, Any]:
    if options is None:
        return {}
    text = options
    if not options.lstrip().startswith("{"):
        path = Path(options).expanduser()
        if not path.is_file():
            raise ValueError("storage-options is neither a JSON object nor the path of a file with one")
        text = path.read_text()
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"storage-options is no valid JSON (character {error.pos})") from None
    if not isinstance(values, dict):
        raise ValueError("storage-options is JSON, but no object of option names and values")
    return values
