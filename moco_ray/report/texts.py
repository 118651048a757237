"""Texts and numbers on pages, the same everywhere: never a credential, never a line without an end."""

from __future__ import annotations

import json
import math
import time
from typing import Any, TypeGuard

from moco_ray.report.page import Fact, Number
from moco_ray.report.scales import number_text
from moco_ray.storage.uris import shown, without_secrets

_LONGEST = 300


def plain(value: Any, most: int = _LONGEST) -> str:
    """Something from a run's folder as text."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if len(text) > 4 * most:  # before anything that takes as long as a text is
        text = text[: 4 * most]
    text = shown(without_secrets(text) if "://" in text else text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether something is a number, and finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any) -> Number | str:
    """A number of the record for a table; what is none as text."""
    if not is_number(value):
        return "" if value is None else plain(value, 40)
    return Number(value=json.dumps(value), text=number_text(value))


def figure(name: str, value: Any, unit: str = "", remark: str = "") -> Fact:
    """A number of the record that matters."""
    found = number(value)
    if isinstance(found, str):
        return Fact(name=name, text=found or "unknown", remark=remark)
    return Fact(name=name, text=f"{found.text}{unit}", value=found.value, remark=remark)


def stamp(seconds: Any) -> str:
    """A time since 1970 as people read it, to the minute."""
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(float(seconds)))
    except (ValueError, TypeError, OverflowError, OSError):
        return "unknown"


def plural(count: int, one: str, many: str = "") -> str:
    """A count with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
