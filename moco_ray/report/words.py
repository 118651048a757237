"""What is known of runs in a few words: sizes, hours, ages, changes."""

from __future__ import annotations

import json
from collections.abc import Mapping

_KINDS = {"cuda": "GPU h", "cpu": "CPU h"}


def size_words(num_bytes: int) -> str:
    """A size, in decimal units."""
    size, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" or size >= 99.5 else f"{size:.3g} {units[0]}"


def hours_words(hours: Mapping[str, float] | None) -> str:
    """Hours of devices by their kind; empty of runs that did not count them."""
    return " + ".join(f"{_figure(value)} {_KINDS.get(kind, kind)}" for kind, value in (hours or {}).items())


def time_words(seconds: float) -> str:
    """A span of time, in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (unit == "min" and seconds >= length):
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def duration(seconds: float) -> str:
    """A span of time that was measured, to a tenth of its unit."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def change_words(value: object, before: object) -> str:
    """A value beside the one it stands in the place of."""
    return value_words(value) if before in ("", None) else f"{value_words(value)} ({value_words(before)})"


def value_words(value: object) -> str:
    """The value of a field of a configuration."""
    if value is None:
        return "none"
    return value if isinstance(value, str) and value else json.dumps(value)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.2g}" if value >= 0.01 else "<0.01"
