"""What is said of classes that training and evaluation images do not share."""

from __future__ import annotations

import unicodedata

from moco_ray.data.labels import quoted
from moco_ray.data.manifest import Manifest


def left_out(train: Manifest, images: Manifest, common: tuple[str, ...]) -> str:
    """Which classes of either play no part; empty if all are common."""
    parts = []
    for manifest, whose in ((train, "training"), (images, "evaluation")):
        if others := [name for name in manifest.classes if name not in set(common)]:
            parts.append(f"{quoted(others)} of {whose} images")
    return f" that both have; left out: {' and '.join(parts)}{_alike(train, images)}" if parts else ""


def both_sides(train: Manifest, images: Manifest) -> str:
    """Some classes of each, for people who expected the same ones; empty if one has none."""
    if not train.classes or not images.classes:
        return ""
    return (
        f" ({quoted(train.classes)} of training, {quoted(images.classes)} of evaluation images{_alike(train, images)})"
    )


def _alike(train: Manifest, images: Manifest) -> str:
    """A hint where classes that are not in both would be, but for capitals or their form in Unicode."""
    ours, theirs = set(train.classes) - set(images.classes), set(images.classes) - set(train.classes)
    known = {_folded(name): name for name in sorted(ours)}
    pairs = [(known[_folded(name)], name) for name in sorted(theirs) if _folded(name) in known]
    if not pairs:
        return ""
    said = ", ".join(f"{first!r} and {second!r}" for first, second in pairs[:2]) + (", …" if len(pairs) > 2 else "")
    return f"; {said} differ only in capitals or in Unicode form (NFC, NFD): give them the same names"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
