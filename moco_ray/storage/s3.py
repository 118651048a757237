"""S3: who may use it, how long to wait for it, and what it says of a request that it refuses without a word."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import fsspec

from moco_ray.storage.errors import error_code
from moco_ray.storage.keys import KeyRing, Keys

# Answers must be fresh, and a broken connection must not be waited for longer than a retry takes.
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 10, 60
_REQUEST_TRIES = 4  # of one request; one part of a large upload that fails does not repeat the others
# Of what a run asks first, whose failure is most often a mistake.
_QUICK = {"connect_timeout": 4, "read_timeout": 12}
_SLOWEST_BYTES_PER_S = 1_000_000
# Credential providers whose keys expire and which every node can ask by itself.
_NODE_PROVIDERS = ("iam-role", "container-role", "assume-role-with-web-identity")
# What many servers do not know: checksums of their own kind beside those of HTTP, TLS and the signature.
_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")


def with_aws_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Add the region and the endpoint of this process's AWS environment or profile, where the options name none.

    Raises:
        ValueError: The profile does not exist.
    """
    import botocore.exceptions
    import botocore.session

    resolved = dict(values)
    session = botocore.session.Session(profile=resolved.pop("profile", None))  # nodes need not have the profile
    client = dict(resolved.pop("client_kwargs", None) or {})
    try:
        endpoint = (
            client.pop("endpoint_url", None)
            or os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL")
            or session.get_scoped_config().get("endpoint_url")
        )
        region = os.environ.get("AWS_REGION") or session.get_config_variable("region")
        config = dict(resolved.get("config_kwargs") or {})
        for name in _CHECKSUMS:  # what a user has set is kept for every node
            given = os.environ.get(f"AWS_{name.upper()}") or session.get_scoped_config().get(name)
            if name not in config and given:
                config[name] = given
    except botocore.exceptions.BotoCoreError as error:
        raise ValueError(f"the AWS profile cannot be used: {error}; check AWS_PROFILE and ~/.aws") from error
    if region:
        client.setdefault("region_name", region)
    if endpoint:
        resolved.setdefault("endpoint_url", endpoint)
    return resolved | ({"client_kwargs": client} if client else {}) | ({"config_kwargs": config} if config else {})


def find_keys(values: Mapping[str, Any]) -> Keys | None:
    """The keys of the options, or else those of this process's AWS environment or profile, asked for anew.

    Returns:
        None where there are none, or where every node has its own.

    Raises:
        ValueError: The profile does not exist, or its provider gives none.
    """
    import botocore.exceptions
    import botocore.session

    if values.get("anon"):
        return None
    if values.get("key"):
        return Keys(str(values["key"]), str(values.get("secret") or ""), values.get("token"))
    try:
        credentials = botocore.session.Session(profile=values.get("profile")).get_credentials()
        if credentials is None or credentials.method in _NODE_PROVIDERS:
            return None
        # By itself botocore asks again 15 minutes before keys expire: at every call, where they live no longer.
        credentials._advisory_refresh_timeout = credentials._mandatory_refresh_timeout = 0
        frozen = credentials.get_frozen_credentials()
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, OSError) as error:
        raise ValueError(
            f"the AWS profile cannot be used: {error}; check AWS_PROFILE and ~/.aws (for SSO: aws sso login)"
        ) from error
    expires_at = getattr(credentials, "_expiry_time", None)
    return Keys(
        frozen.access_key,
        frozen.secret_key,
        frozen.token,
        expires_at.timestamp() if isinstance(expires_at, datetime) else None,
    )


def aws_environment() -> tuple[tuple[str, str], ...]:
    """What keys of this process are found with, beside the options."""
    return tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))


def open_s3(values: Mapping[str, Any], ring: KeyRing | None, *, is_quick: bool = False) -> Any:
    """The fsspec file system, with one layer of retries for each request.

    s3fs repeats what botocore repeats, in reads twice over: 125 tries that each wait a minute for an endpoint that
    hangs. Here botocore alone repeats requests, and `Storage` repeats whole operations.

    Args:
        values: Options of s3fs.
        ring: Where each request finds the newest keys; None for those of the options or of the node.
        is_quick: Whether to give up early.
    """
    given = dict(values.get("config_kwargs") or {})
    retries = {"mode": "standard", "total_max_attempts": _REQUEST_TRIES, **(given.pop("retries", None) or {})}
    config = {"connect_timeout": _CONNECT_TIMEOUT_S, "read_timeout": _READ_TIMEOUT_S, **given, "retries": retries}
    if is_quick:
        config |= {name: min(limit, config[name]) for name, limit in _QUICK.items()}
        config["retries"] = {**retries, "total_max_attempts": 1}
    config = {**dict.fromkeys(_CHECKSUMS, "when_required"), **config}
    fs = fsspec.filesystem("s3", **{**values, "use_listings_cache": False, "config_kwargs": config})
    fs.retries = 1
    if ring is not None and fs.key is not None:  # the first keys told this instance from others; now they may change
        fs.session = _session(ring)
        fs._session_is_owned = False
        fs.key = fs.secret = fs.token = None
    return fs


def _session(ring: KeyRing) -> Any:
    """A session whose requests are signed with the ring's newest keys."""
    import aiobotocore.session  # type: ignore[import-untyped]
    from aiobotocore.credentials import AioCredentials  # type: ignore[import-untyped]
    from botocore.credentials import ReadOnlyCredentials

    class Newest(AioCredentials):  # type: ignore[misc]
        async def get_frozen_credentials(self) -> ReadOnlyCredentials:
            keys = ring.current
            return ReadOnlyCredentials(keys.access_key, keys.secret, keys.token)

    session = aiobotocore.session.AioSession()
    session._credentials = Newest(ring.current.access_key, ring.current.secret, ring.current.token)
    return session


def with_reason(fs: Any, path: str, error: Exception) -> Exception:
    """The error of a request whose answer had no body, as the answer of one that has says it; else the error itself.

    An answer to HEAD holds no code, only a status.
    """
    code = error_code(error)
    if not (code.isdecimal() and code.startswith(("3", "4"))) or code in ("404", "408", "429"):
        return error
    bucket, _, key = path.partition("/")
    asks: list[tuple[str, dict[str, Any]]] = [("list_objects_v2", {"Prefix": key, "MaxKeys": 1})]
    if key:
        asks.insert(0, ("get_object", {"Key": key, "Range": "bytes=0-0"}))
    for method, arguments in asks:
        with suppress(FileNotFoundError):
            try:
                fs.call_s3(method, Bucket=bucket, **arguments)
            except FileNotFoundError:
                raise
            except Exception as reason:
                if error_code(reason):
                    return reason
    return error


def upload_limit_s(fs: Any, num_bytes: int) -> float:
    """Seconds after which an upload is taken for stalled: no timeout of a socket notices a peer that stops reading."""
    return float(_REQUEST_TRIES * fs.config_kwargs["read_timeout"]) + num_bytes / _SLOWEST_BYTES_PER_S
