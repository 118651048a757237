"""A page of a run or a sweep: one HTML file that needs nothing else, no network and no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from jinja2 import Environment, StrictUndefined

from moco_ray.report.style_sheet import SCRIPT, style_sheet

_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<title>{{ title }}</title>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{{ script_digest }}'">
<style>
{{ style | safe }}</style>
</head>
<body>
<main>
<h1>{{ title }}{% if state %} {{ state_mark(state) | safe }}{% endif %}</h1>
{% for section in sections %}
{% if section.heading %}
<h2{% if section.anchor %} id="{{ section.anchor }}"{% endif %}>{{ section.heading }}</h2>
{% endif %}
{% for note in section.warnings %}
<p class="{{ "failure" if section.is_failure else "warning" }}">{{ note }}</p>
{% endfor %}
{% for note in section.notes %}
<p class="note">{{ note }}</p>
{% endfor %}
{% if section.share is not none %}
<progress max="1" value="{{ section.share }}" aria-label="steps done"></progress>
{% endif %}
{% if section.facts %}
<dl class="facts">
{% for fact in section.facts %}
<div><dt>{{ fact.name }}</dt><dd>
{%- if fact.value is none %}{{ fact.text }}{% else %}<data value="{{ fact.value }}">{{ fact.text }}</data>{% endif %}
{%- if fact.remark %}<small>{{ fact.remark }}</small>{% endif %}</dd></div>
{% endfor %}
</dl>
{% endif %}
{% for line in section.code %}
<pre>{{ line }}</pre>
{% endfor %}
{% if section.picture and section.is_drawn %}
<div class="drawn">{{ section.picture | safe }}</div>
{% else %}
{{ section.picture | safe }}
{% endif %}
{% if section.rows %}
{% if section.fold %}<details><summary>{{ section.fold }}</summary>{% endif %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ section.heading or "table" }}"><table>
{% for row in section.rows %}
{% set cell = "th" if loop.first else "td" %}
<tr{% if row.is_best %} class="best"{% endif %}>
{%- for text in row.words %}<{{ cell }} class="left">
{%- for piece in ([text] if text is string else text) %}
{%- if piece is string %}{{ piece }}{% else %}<data value="{{ piece.value }}">{{ piece.text }}</data>{% endif %}
{%- endfor %}</{{ cell }}>{% endfor %}
{%- for text in row.numbers %}
{%- if text is string %}<{{ cell }}>{{ text }}</{{ cell }}>
{%- else %}<{{ cell }}><data value="{{ text.value }}">{{ text.text }}</data></{{ cell }}>{% endif %}
{%- endfor %}
{%- if row.remark %}<{{ cell }} class="left remark">{{ row.remark }}</{{ cell }}>{% endif -%}
</tr>
{% endfor %}
</table></div>
{% if section.fold %}</details>{% endif %}
{% endif %}
{% if section.is_top and anchors %}
<nav aria-label="sections">{% for anchor, heading in anchors %}<a href="#{{ anchor }}">{{ heading }}</a>{% endfor %}</nav>
{% endif %}
{% endfor %}
</main>
{% if script %}
<script>{{ script | safe }}</script>
{% endif %}
</body>
</html>
"""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number in a table, with what it is exactly."""

    value: str
    """As the record has it."""
    text: str
    """For people."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One figure that matters, with its name."""

    name: str
    """What it is."""
    text: str
    """The figure, for people."""
    value: str | None = None
    """As the record has it, if it is a number of the record."""
    remark: str = ""
    """Below it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table."""

    words: Sequence[str | Sequence[str | Number]]
    """On the left of their columns; one may be of several pieces."""
    numbers: Sequence[str | Number]
    """On the right of theirs."""
    remark: str = ""
    """Beside the row."""
    is_best: bool = False
    """Whether it stands out."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """What stands below one heading, in this order."""

    heading: str = ""
    """None for what belongs to the title."""
    anchor: str = ""
    """By which links within the page find it; empty: none do."""
    warnings: Sequence[str] = ()
    """Paragraphs that stand out."""
    is_failure: bool = False
    """Whether they say why a run has failed."""
    notes: Sequence[str] = ()
    """Paragraphs."""
    share: float | None = None
    """How much of something is done."""
    facts: Sequence[Fact] = ()
    """Figures that matter."""
    code: Sequence[str] = ()
    """Commands and lines of code to copy."""
    picture: str = ""
    """SVG and HTML that is trusted: the one part that is not escaped."""
    is_drawn: bool = False
    """Whether the picture has colours of its own, for a white background."""
    rows: Sequence[Row] = ()
    """A table; its first row is the head."""
    fold: str = ""
    """What to click for the table; empty: it is open."""
    is_top: bool = False
    """Whether the links to all sections follow."""


def state_mark(state: str) -> str:
    """The state of a run, in a word, as it stands on its page."""
    return f'<span class="state {escape(state)}">{escape(state)}</span>'


def render_page(title: str, sections: Sequence[Section], *, state: str = "") -> str:
    """The page as HTML.

    Args:
        title: Of the page.
        sections: What is on it.
        state: Of a run, in a word, beside the title.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    anchors = [(section.anchor, section.heading) for section in sections if section.anchor]
    script = SCRIPT if any("data-frame" in section.picture for section in sections) else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()  # no other script may run
    return environment.from_string(_TEMPLATE).render(
        title=title,
        sections=sections,
        state=state,
        state_mark=state_mark,
        anchors=anchors,
        style=style_sheet(),
        script=script,
        script_digest=digest,
    )
