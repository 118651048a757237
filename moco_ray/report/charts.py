"""Line charts as SVG in HTML: light, whole without a script, for narrow and wide screens, dark ones, paper and readers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from moco_ray.report.lines import Level as Level
from moco_ray.report.lines import Mark as Mark
from moco_ray.report.lines import Series as Series
from moco_ray.report.lines import description, drawable, short_unit
from moco_ray.report.lines import series_of as series_of
from moco_ray.report.scales import number_text, round_ticks, spread, tick_texts
from moco_ray.report.style import SERIES_DASHES

_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 12, 34
_FEW_POINTS, _MOST_MARKS, _LABEL_PX = 40, 60, 15


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    unit: str = "",
    levels: Sequence[Level] = (),
    marks: Sequence[Mark] = (),
    x_label: str = "step",
    from_zero: bool = False,
    note: str = "",
) -> str:
    """A figure with its title, one SVG and, of several lines, a legend; needs the page's style sheet.

    Args:
        title: What is drawn.
        series: Lines; longer ones than a chart can show are thinned.
        unit: Of the values, as "%".
        levels: What to compare with.
        marks: What has happened on the way.
        x_label: What lies across.
        from_zero: Let the axis begin at 0.
        note: A sentence below.
    """
    shown = [drawable(line) for line in series]
    notes = [note] if note else []
    for before, after in zip(series, shown, strict=True):
        if after.num_not_finite:
            count = after.num_not_finite
            notes.append(f"{before.name}: {count:,} value{'s are' if count > 1 else ' is'} not finite and not drawn.")
    title_html = f"{escape(title)}{f' <small>{escape(unit)}</small>' if unit else ''}"
    if not any(line.steps for line in shown):
        body = '<p class="none">nothing on record</p>'
        return f'<figure class="chart"><figcaption>{title_html}</figcaption>{body}{_notes(notes)}</figure>\n'
    frame = _Frame.around(shown, levels, marks, from_zero=from_zero)
    words = description(shown, levels, marks, unit)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(f"{title}: {words}")}"'
        f" data-frame='{json.dumps(frame.numbers())}'>",
        f"<title>{escape(title)}</title><desc>{escape(words)}</desc>",
        *frame.axes(x_label),
        *(_mark(mark, frame, with_label=with_label) for mark, with_label in _marks(marks, frame)),
        *(part for level in levels for part in _level(level, frame, unit)),
        *(part for place, line in enumerate(shown) for part in _line(line, place, frame)),
        '<g class="cursor"></g></svg>',
    ]
    last = _last(shown[0], unit) if len(shown) == 1 else ""
    legend = _legend(shown, unit) if len(shown) > 1 else ""
    return (
        f'<figure class="chart"><figcaption>{title_html}{last}</figcaption>\n'
        + "\n".join(parts)
        + f"\n{legend}{_notes(notes)}</figure>\n"
    )


@dataclass(frozen=True)
class _Frame:
    """Where steps and values lie in the picture."""

    x: tuple[float, float]
    y: tuple[float, float]
    is_whole: bool

    @classmethod
    def around(
        cls, series: Sequence[Series], levels: Sequence[Level], marks: Sequence[Mark], *, from_zero: bool
    ) -> _Frame:
        steps = [step for line in series for step in line.steps] + [mark.step for mark in marks]
        values = [value for line in series for value in line.values] + [level.value for level in levels]
        for line in series:
            for value, error in zip(line.values, line.errors or (), strict=False):
                values += [value - error, value + error]
        low, high = spread(min([*values, 0.0] if from_zero else values), max(values))
        first, last = min(steps), max(steps)
        return cls(
            (first, last) if last > first else (first, first + 1),
            (low, high),
            all(line.is_stairs for line in series),
        )

    def across(self, step: float) -> float:
        share = (step - self.x[0]) / (self.x[1] - self.x[0])
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def up(self, value: float) -> float:
        share = (value - self.y[0]) / (self.y[1] - self.y[0])
        bottom = _HEIGHT - _BOTTOM
        return round(bottom - share * (bottom - _TOP), 1)

    def numbers(self) -> list[float]:
        """For the script that reads values out: left, right, first and last step, top, bottom, low and high value."""
        return [_LEFT, _WIDTH - _RIGHT, *self.x, _TOP, _HEIGHT - _BOTTOM, *self.y]

    def axes(self, x_label: str) -> list[str]:
        bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        ups = round_ticks(*self.y, 4, whole=self.is_whole)
        steps = round_ticks(*self.x, 4, whole=x_label == "step")
        lines = "".join(f"M{_LEFT} {self.up(tick)}H{right}" for tick in ups)
        texts = [
            f'<text x="{_LEFT - 7}" y="{self.up(tick) + 4:.1f}" text-anchor="end">{text}</text>'
            for tick, text in zip(ups, tick_texts(ups), strict=True)
        ]
        for tick, text in zip(steps, tick_texts(steps), strict=True):
            x = self.across(tick)
            anchor = "end" if x > right - 12 else "middle"
            texts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="{anchor}">{text}</text>')
        name = f'<text class="name" x="{right}" y="{_HEIGHT - 3}" text-anchor="end">{escape(x_label)}</text>'
        return [
            f'<path class="grid" d="{lines}"/><path class="axis" d="M{_LEFT} {bottom}H{right}"/>',
            f'<g class="ticks">{"".join(texts)}{name}</g>',
        ]


def _line(line: Series, place: int, frame: _Frame) -> list[str]:
    if not line.steps:
        return []
    colour = (place if line.colour is None else line.colour) % len(SERIES_DASHES)
    dash = f' stroke-dasharray="{SERIES_DASHES[colour]}"' if SERIES_DASHES[colour] else ""
    points = [[_plain(step), value] for step, value in zip(line.steps, line.values, strict=True)]
    parts = [f'<g class="line s{colour}" data-name="{escape(line.name)}" data-points=\'{json.dumps(points)}\'>']
    if line.errors is not None:
        around = [(step, value, error) for step, value, error in zip(line.steps, line.values, line.errors, strict=True)]
        ends = [(step, value + error) for step, value, error in around]
        ends += [(step, value - error) for step, value, error in reversed(around)]
        parts.append(f'<polygon class="band" points="{_corners(ends, frame)}"/>')
    path = _stairs(line, frame) if line.is_stairs else f"M{_corners(zip(line.steps, line.values, strict=True), frame)}"
    parts.append(f'<path class="{"raw" if line.means else "plain"}" d="{path}"{"" if line.means else dash}/>')
    if line.means:
        parts.append(f'<path class="plain" d="M{_corners(zip(*line.means, strict=True), frame)}"{dash}/>')
    few = len(line.steps) <= _FEW_POINTS and not line.is_stairs and not line.means
    for step, value in zip(line.steps, line.values, strict=True) if few else ():
        parts.append(f'<circle cx="{frame.across(step)}" cy="{frame.up(value)}" r="2.6"/>')
    return [*parts, "</g>"]


def _corners(points: Iterable[tuple[float, float]], frame: _Frame) -> str:
    return " ".join(f"{frame.across(step)},{frame.up(value)}" for step, value in points)


def _stairs(line: Series, frame: _Frame) -> str:
    parts = [f"M{frame.across(line.steps[0])} {frame.up(line.values[0])}"]
    for step, value in zip(line.steps[1:], line.values[1:], strict=True):
        parts.append(f"H{frame.across(step)}V{frame.up(value)}")
    return "".join(parts)


def _level(level: Level, frame: _Frame, unit: str) -> list[str]:
    y, right = frame.up(level.value), _WIDTH - _RIGHT
    text = escape(f"{level.text} {number_text(level.value)}{short_unit(unit)}")
    above = y - 5 if y - 5 > _TOP + 8 else y + 14
    return [f'<g class="level"><path d="M{_LEFT} {y}H{right}"/><text x="{right}" y="{above:.1f}">{text}</text></g>']


def _marks(marks: Sequence[Mark], frame: _Frame) -> list[tuple[Mark, bool]]:
    """Those that are drawn, and whether there is room for the label."""
    pace = -(-len(marks) // _MOST_MARKS) if marks else 1
    drawn, free = [], -math.inf
    for mark in sorted(marks, key=lambda mark: mark.step)[::pace]:
        x = frame.across(mark.step)
        has_room = x >= free
        free = x + _LABEL_PX if has_room else free
        drawn.append((mark, has_room))
    return drawn


def _mark(mark: Mark, frame: _Frame, *, with_label: bool) -> str:
    x = frame.across(mark.step)
    label = f'<text x="{x}" y="{_TOP - 2}">{escape(mark.label)}</text>' if with_label and mark.label else ""
    line = f'<path d="M{x} {_TOP}V{_HEIGHT - _BOTTOM}"/>'
    return f'<g class="mark"><title>{escape(mark.text)}</title>{line}{label}</g>'


def _last(line: Series, unit: str) -> str:
    value = line.values[-1]
    error = f" ± {line.errors[-1]:.1f}" if line.errors else ""
    return f' <data class="last" value="{json.dumps(value)}">{number_text(value)}{error}{short_unit(unit)}</data>'


def _legend(series: Sequence[Series], unit: str) -> str:
    items = []
    for place, line in enumerate(series):
        colour = (place if line.colour is None else line.colour) % len(SERIES_DASHES)
        dash = f' stroke-dasharray="{SERIES_DASHES[colour]}"' if SERIES_DASHES[colour] else ""
        key = (
            f'<svg class="key" viewBox="0 0 26 8" aria-hidden="true"><path class="s{colour}" d="M0 4H26"{dash}/></svg>'
        )
        last = _last(line, unit) if line.values else ""
        items.append(f"<li>{key} {escape(line.name)}{last}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>\n'


def _notes(notes: Sequence[str]) -> str:
    return "".join(f'<p class="small">{escape(note)}</p>' for note in notes)


def _plain(step: float) -> float:
    return int(step) if step == int(step) else step
