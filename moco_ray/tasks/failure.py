"""How a run fails that nobody's input explains."""

from __future__ import annotations


class RunFailed(RuntimeError):
    """The cluster or the storage failed again and again, for no reason that a user's input explains."""
