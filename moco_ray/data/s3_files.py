"""S3: who may use it, how long to wait for it, and what its errors mean."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import fsspec

# Answers must be fresh, and a broken connection must not be waited for longer than a retry takes.
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 10, 60
_REQUEST_TRIES = 4  # of one request; one part of a large upload that fails does not repeat the others
_SLOWEST_BYTES_PER_S = 1_000_000
# Credential providers whose keys expire and which every node can ask by itself.
_NODE_PROVIDERS = ("iam-role", "container-role", "assume-role-with-web-identity")


def with_aws_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Add what the AWS environment and profile of this process say and the options do not.

    Raises:
        ValueError: The profile does not exist, or its credentials cannot be had.
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
        if not resolved.get("key") and not resolved.get("anon"):
            credentials = session.get_credentials()
            if credentials is not None and credentials.method not in _NODE_PROVIDERS:
                frozen = credentials.get_frozen_credentials()
                resolved |= {"key": frozen.access_key, "secret": frozen.secret_key, "token": frozen.token}
    except botocore.exceptions.BotoCoreError as error:
        raise ValueError(f"the AWS profile cannot be used: {error}; check AWS_PROFILE and ~/.aws") from error
    if region:
        client.setdefault("region_name", region)
    if endpoint:
        resolved.setdefault("endpoint_url", endpoint)
    return resolved | ({"client_kwargs": client} if client else {})


def open_s3(values: Mapping[str, Any]) -> Any:
    """The fsspec file system, with one layer of retries for each request.

    s3fs repeats what botocore repeats, in reads twice over: 125 tries that each wait a minute for an endpoint that
    hangs. Here botocore alone repeats requests, and `Storage` repeats whole operations.
    """
    given = dict(values.get("config_kwargs") or {})
    retries = {"mode": "standard", "total_max_attempts": _REQUEST_TRIES, **(given.pop("retries", None) or {})}
    config = {"connect_timeout": _CONNECT_TIMEOUT_S, "read_timeout": _READ_TIMEOUT_S, **given, "retries": retries}
    fs = fsspec.filesystem("s3", **{**values, "use_listings_cache": False, "config_kwargs": config})
    fs.retries = 1
    return fs


def upload_limit_s(fs: Any, num_bytes: int) -> float:
    """Seconds after which an upload is taken for stalled: no timeout of a socket notices a peer that stops reading."""
    return float(_REQUEST_TRIES * fs.config_kwargs["read_timeout"]) + num_bytes / _SLOWEST_BYTES_PER_S


def error_code(error: BaseException | None) -> str:
    """S3's code of an error, or of the one behind it; empty if it has none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""
