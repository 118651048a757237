"""The one exception of decoding."""

from __future__ import annotations


class BadImage(ValueError):
    """Bytes that arrived whole but are not an image that can be used; the message says why, in a few words."""
