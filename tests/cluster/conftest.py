"""What whoever starts a cluster has exported: Ray makes a token for a Ray of its own only, not for `ray start`."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _token() -> Iterator[None]:
    """One mode of authentication and one token for every process, before anything here imports Ray."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "token")
        environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        yield
