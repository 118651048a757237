"""A page of a run or a sweep: one HTML file that needs nothing else, no network and no scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined

from moco_ray.report import style

_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<title>{{ title }}</title>
<meta charset="utf-8">
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: {{ style.INK }}; max-width: 66rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.1rem; margin-top: 2.2rem }
p.note { color: {{ style.MUTED }}; margin-top: .2rem }
pre { background: {{ style.PAPER }}; padding: .8rem; overflow-x: auto; white-space: pre-wrap; word-break: break-word }
table { border-collapse: collapse; font-size: .85rem } td, th { padding: .2rem .7rem; text-align: right }
th { border-bottom: 1px solid {{ style.LINE }} } td.left, th.left { text-align: left }
tr.best { background: {{ style.ROSE }} }
.picture { width: 100%; height: auto } .scroll { overflow-x: auto }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for section in sections %}
{% if section.heading %}
<h2>{{ section.heading }}</h2>
{% endif %}
{% for note in section.notes %}
<p class="note">{{ note }}</p>
{% endfor %}
{% for line in section.code %}
<pre>{{ line }}</pre>
{% endfor %}
{{ section.picture | safe }}
{% if section.rows %}
<div class="scroll"><table>
{% for row in section.rows %}
{% set cell = "th" if loop.first else "td" %}
<tr{% if row.is_best %} class="best"{% endif %}>
{%- for text in row.words %}<{{ cell }} class="left">{{ text }}</{{ cell }}>{% endfor %}
{%- for text in row.numbers %}<{{ cell }}>{{ text }}</{{ cell }}>{% endfor %}
{%- if row.remark %}<td class="left">{{ row.remark }}</td>{% endif -%}
</tr>
{% endfor %}
</table></div>
{% endif %}
{% endfor %}
</body>
</html>
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table."""

    words: Sequence[str]
    """On the left of their columns."""
    numbers: Sequence[str]
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
    notes: Sequence[str] = ()
    """Paragraphs."""
    code: Sequence[str] = ()
    """Commands and lines of code to copy."""
    picture: str = ""
    """An svg element, which is trusted: the one part that is not escaped."""
    rows: Sequence[Row] = ()
    """A table; its first row is the head."""


def render_page(title: str, sections: Sequence[Section]) -> str:
    """The page as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE).render(title=title, sections=sections, style=style) + "\n"
