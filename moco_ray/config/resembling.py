"""What a misspelt name may stand for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def plain(name: str) -> str:
    """A name as people remember it: without capitals and what stands between words."""
    return "".join(character for character in name.lower() if character.isalnum())


def most_like(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that is most like another, if one is.

    Args:
        name: As it was written.
        known: Names that there are.
        cutoff: How like, 0..1, as in difflib.
    """
    by_plain = {plain(one): one for one in known}
    close = difflib.get_close_matches(plain(name), by_plain, n=1, cutoff=cutoff)
    return by_plain[close[0]] if close else None
