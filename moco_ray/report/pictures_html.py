"""The pictures of a page as HTML and SVG, each with words for whoever does not see it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from moco_ray.report.map import HEIGHT, THUMB, WIDTH
from moco_ray.report.style import SERIES

_MOST_LEGEND, _MOST_CONFUSED = 24, 30
_SRC = re.compile(r"data:image/(?:webp|png|jpeg);base64,[A-Za-z0-9+/=]+")


def views_html(views: Mapping[str, Any]) -> str:
    """Images above their two views."""
    cards = []
    for number, row in enumerate(views["rows"], start=1):
        names = (f"image {number}", f"query view of image {number}", f"key view of image {number}")
        cards.append(f"<div>{''.join(_image(src, name) for src, name in zip(row, names, strict=False))}</div>")
    return f'<div class="views">{"".join(cards)}</div>'


def neighbours_html(neighbours: Mapping[str, Any]) -> str:
    """Images before those that are nearest to them."""
    rows = []
    for number, row in enumerate(neighbours["rows"], start=1):
        own = row.get("class")
        cells = [_cell(row["src"], own or f"image {number}", f"image {number}{f', {own}' if own else ''}", "query")]
        for place, other in enumerate(row["others"], start=1):
            value, agrees = other.get("similarity"), other.get("agrees")
            mark = {True: "right", False: "wrong"}.get(agrees, "")
            sign = {True: "✓ ", False: "✗ "}.get(agrees, "")
            text = sign + (other.get("class") or "")
            alt = f"neighbour {place} of image {number}{f': {text}' if text else ''}, cosine {value}"
            cells.append(_cell(other["src"], f"{text} {value:.2f}".strip(), alt, mark))
        rows.append(f'<div class="near">{"".join(cells)}</div>')
    return "".join(rows)


def agreement(neighbours: Mapping[str, Any]) -> str:
    """How many neighbours have the class of their image, in words."""
    said = [other.get("agrees") for row in neighbours["rows"] for other in row["others"]]
    if not any(one is not None for one in said):
        return "On the left images of the evaluation, then those whose features are most alike, with their cosine."
    right = sum(one is True for one in said)
    return f"{right} of {len(said)} neighbours have the class of the image on the left; with their cosine."


def map_svg(found: Mapping[str, Any]) -> str:
    """Images where their features put them."""
    named = found.get("classes") or {}
    classes: Mapping[str, str] = named if isinstance(named, Mapping) else {str(i): name for i, name in enumerate(named)}
    counts = Counter(int(one[2]) for one in (*found["points"], *found["thumbs"]) if int(one[2]) >= 0)
    names = {label: classes.get(str(label), str(label)) for label in counts}
    total = len(found["points"]) + len(found["thumbs"])
    parts = []
    for x, y, label in found["points"]:
        title = f"<title>{escape(names[label])}</title>" if label in names else ""
        parts.append(f'<circle class="{_colour(label)}" cx="{float(x)}" cy="{float(y)}" r="3">{title}</circle>')
    half = THUMB / 2
    for x, y, label, src in found["thumbs"]:
        title = f"<title>{escape(names[label])}</title>" if label in names else ""
        place = f'x="{float(x) - half:.1f}" y="{float(y) - half:.1f}" width="{THUMB}" height="{THUMB}"'
        parts.append(
            f'<g class="{_colour(label)}">{title}<image {place} preserveAspectRatio="xMidYMid slice" href="{_safe(src)}"/>'
            f'<rect {place} rx="2"/></g>'
        )
    words = f"map of {total:,} images by their features" + (f", coloured by {len(names)} classes" if names else "")
    legend = ""
    if names:
        shown = [label for label, _ in counts.most_common(_MOST_LEGEND)]
        items = [f'<li><i class="{_colour(label)}"></i>{escape(names[label])}</li>' for label in sorted(shown)]
        more = f"<li>and {len(names) - len(shown)} more</li>" if len(names) > len(shown) else ""
        legend = f'<ul class="legend">{"".join(items)}{more}</ul>'
    return (
        f'<figure class="map"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(words)}">'
        f"<title>{escape(words)}</title>{''.join(parts)}</svg>{legend}</figure>"
    )


def tiles_html(tiles: Sequence[tuple[str | None, str, str]]) -> str:
    """Pictures with a name and what to know of them.

    Args:
        tiles: Source or None, name, words.
    """
    cells = []
    for src, name, words in tiles:
        shown = _image(src, f"{name}: {words}") if src else '<div class="blank">nothing decodes</div>'
        cells.append(f"<figure>{shown}<figcaption>{escape(name)}<br><b>{escape(words)}</b></figcaption></figure>")
    return f'<div class="tiles">{"".join(cells)}</div>'


def confusion_html(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """A table of which class images have (rows) and which was found (columns); empty of too many classes."""
    if not 1 < len(classes) <= _MOST_CONFUSED or len(confusion) != len(classes):
        return ""
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in classes)
    rows = []
    for name, counts in zip(classes, confusion, strict=True):
        total = max(sum(counts), 1)
        cells = "".join(
            f'<td style="--share:{100 * count / total:.0f}%"{" class=much" if count > 0.55 * total else ""}>'
            f'<data value="{int(count)}">{count if count else "·"}</data></td>'
            for count in counts
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="confusion matrix"><table class="confusion"><caption>Rows: '
        f"the class that images have. Columns: the class that was found.</caption><tr><td></td>{head}</tr>"
        f"{''.join(rows)}</table></div>"
    )


def picture_html(src: str, words: str) -> str:
    """A large picture."""
    return f'<img class="photo" src="{_safe(src)}" alt="{escape(words)}">'


def _cell(src: str, text: str, alt: str, mark: str) -> str:
    return f'<figure class="{mark}">{_image(src, alt)}<figcaption>{escape(text)}</figcaption></figure>'


def _image(src: str, alt: str) -> str:
    return f'<img src="{_safe(src)}" alt="{escape(alt)}">'


def _colour(label: int) -> str:
    return f"s{label % len(SERIES)}" if label >= 0 else "s0"


def _safe(src: str) -> str:
    """A picture within the page, and nothing else."""
    return src if _SRC.fullmatch(src) else "data:,"
