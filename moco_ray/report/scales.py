"""Axes of charts: round ticks, and numbers as people read them."""

from __future__ import annotations

import math

_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)
_CONSTANT = 1e-6


def round_ticks(low: float, high: float, about: int, *, whole: bool = False) -> list[float]:
    """Round numbers within an interval.

    Args:
        low: Where it begins.
        high: Where it ends, above.
        about: So many are wanted.
        whole: Only whole numbers.
    """
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return [low]
    rough = span / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    pace = next((power * factor for factor in _ROUND if power * factor >= rough * 0.999), power * 10)
    if whole:
        pace = max(1.0, round(pace))
    first = math.ceil(low / pace - 1e-9)
    count = math.floor(high / pace + 1e-9) - first + 1
    return [round((first + i) * pace, 12) for i in range(max(count, 0))]


def spread(low: float, high: float) -> tuple[float, float]:
    """An interval with room at both ends, and with a length even where all values are the same but for rounding."""
    if high - low <= _CONSTANT * max(abs(low), abs(high)):
        room = 0.1 * abs(low)
        return (low - room, high + room) if room else (0.0, 1.0)
    room = 0.06 * (high - low)
    return low - room if low < 0 or low - room > 0 else 0.0, high + room


def tick_texts(ticks: list[float]) -> list[str]:
    """Texts of ticks, all with as many decimals as the finest needs; thousands as k, millions as M."""
    largest = max((abs(tick) for tick in ticks), default=0.0)
    pace = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else largest or 1.0
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if largest >= 10 * unit or (largest >= unit and pace >= unit / 10):
            texts = [f"{tick / unit:.{_decimals(pace / unit)}f}{letter}" for tick in ticks]
            return ["0" if tick == 0 else text for tick, text in zip(ticks, texts, strict=True)]
    if 0 < largest < 1e-3:
        return ["0" if tick == 0 else _exponent(f"{tick:.2g}") for tick in ticks]
    return [f"{tick:,.{_decimals(pace)}f}" for tick in ticks]


def number_text(value: float) -> str:
    """A value for people, to four digits."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return _exponent(f"{value:.3g}")
    return f"{value:.4g}"


def _exponent(text: str) -> str:
    mantissa, has, power = text.partition("e")
    return f"{mantissa}e{int(power)}" if has else text


def _decimals(pace: float) -> int:
    """Decimals that tell multiples of a pace apart."""
    for decimals in range(8):
        if abs(round(pace, decimals) - pace) <= 1e-6 * pace:
            return decimals
    return 8
