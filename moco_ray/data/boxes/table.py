"""Boxes of images as numbers, and which of those that were written down are none."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moco_ray.data.labels import counted, quoted

log = logging.getLogger(__name__)

COLUMNS = 7
"""Numbers of a box: x1, y1, x2, y2, class, is difficult, is a crowd."""
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class WrittenBox:
    """A box as somebody wrote it down, right or wrong."""

    name: str
    """Of its class."""
    corners: tuple[float, float, float, float] | None
    """x1, y1, x2, y2 in pixels from the image's upper left corner, its right and lower edge outside; None: no numbers."""
    is_difficult: bool = False
    """Whether it is neither found nor missed when testing (Pascal VOC); it is trained on, as in Detectron2."""
    is_crowd: bool = False
    """Whether it is around many objects (COCO); not trained on."""


@dataclass(frozen=True, kw_only=True)
class WrittenImage:
    """An image and its boxes as they were written down."""

    uri: str
    """The image."""
    num_bytes: int
    """Of its file; -1: unknown."""
    size: tuple[float, float] | None
    """Width and height, where they were written down."""
    boxes: list[WrittenBox]
    """Of the image; none: it shows nothing, and is learned from as that."""


@dataclass(frozen=True, kw_only=True)
class Bad:
    """Something that cannot be used."""

    place: str
    """The image or the file that it belongs to."""
    reason: str
    """Why it cannot."""
    what: str = "box"
    """What it is: a box, or a whole image."""


@dataclass(frozen=True, kw_only=True)
class BoxedImages:
    """Images whose boxes are all right."""

    uris: list[str]
    """Of each image."""
    num_bytes: list[int]
    """Of each file; -1: unknown."""
    targets: list[NDArray[np.float32]]
    """(n, 7) of each image; classes count from 0 in `classes`."""
    classes: tuple[str, ...]
    """Names."""
    bad: list[Bad] = field(default_factory=list)
    """What was left out."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.uris)

    def words(self) -> list[str]:
        """What there is, and what was left out, in lines for people."""
        boxes = np.concatenate([np.zeros((0, COLUMNS), np.float32), *self.targets])
        names = Counter(self.classes[int(i)] for i in boxes[:, 4])
        empty = sum(len(own) == 0 for own in self.targets)
        lines = [
            f"{len(boxes):,} boxes in {len(self):,} images ({counted(names)})"
            + (f"; {int(boxes[:, 5].sum()):,} are difficult and not counted when testing" if boxes[:, 5].any() else "")
            + (f"; {int(boxes[:, 6].sum()):,} are crowds and not trained on" if boxes[:, 6].any() else "")
            + (f"; {empty:,} images without any show what is no object" if empty else "")
        ]
        for what, plural in (("box", "boxes"), ("image", "images")):
            some = [bad for bad in self.bad if bad.what == what]
            if some:
                lines.append(
                    f"warning: left out {len(some):,} {what if len(some) == 1 else plural}, listed in {BAD_BOXES}:"
                )
                lines += [f"    {bad.place}: {bad.reason}" for bad in some[:_SHOWN]]
                lines += [f"    and {len(some) - _SHOWN:,} more"] if len(some) > _SHOWN else []
        return lines


BAD_BOXES = "bad_boxes.jsonl"
"""Name of the file of a run's folder that lists what was left out."""


def bad_lines(bad: Iterable[Bad]) -> bytes:
    """The file of that name: one JSON object a line."""
    lines = [json.dumps({"what": one.what, "place": one.place, "reason": one.reason}) for one in bad]
    return "".join(f"{line}\n" for line in lines).encode()


def check_boxes(
    images: Sequence[WrittenImage],
    classes: Sequence[str],
    named: str,
    bad: Sequence[Bad] = (),
    *,
    needs_all: bool = True,
) -> BoxedImages:
    """Keep what can be used. Boxes that lie partly outside of their image are cut to it.

    Args:
        images: What was written down.
        classes: Names that count; none: all that there are, in alphabetical order.
        named: Where the boxes come from, for people.
        bad: What has been left out before.
        needs_all: Whether each of the classes must have a box.

    Raises:
        ValueError: There is no image, no box, or no box of a class that must have one.
    """
    present = sorted({box.name for image in images for box in image.boxes})
    known = tuple(classes) or tuple(present)
    if needs_all and (missing := [name for name in classes if name not in present]):
        there = f"its classes are {quoted(present)}" if present else "it has none at all"
        raise ValueError(f"data.classes {quoted(missing)}: {named} has no box of that class; {there}")
    numbers = {name: i for i, name in enumerate(known)}
    left_out, targets = list(bad), []
    for image in images:
        rows = []
        for box in image.boxes:
            found = _row(box, image.size, numbers)
            if isinstance(found, str):
                left_out.append(Bad(place=image.uri, reason=found))
            else:
                rows.append(found)
        targets.append(np.array(rows, dtype=np.float32).reshape(-1, COLUMNS))
    if not any(map(len, targets)):
        first = f": {left_out[0].place}: {left_out[0].reason}" if left_out else ""
        raise ValueError(f"none of the {len(images):,} images of {named} has a box that can be used{first}")
    return BoxedImages(
        uris=[image.uri for image in images],
        num_bytes=[image.num_bytes for image in images],
        targets=targets,
        classes=known,
        bad=left_out,
    )


def _row(box: WrittenBox, size: tuple[float, float] | None, numbers: dict[str, int]) -> list[float] | str:
    """The seven numbers of a box, or why it cannot be used."""
    if box.name not in numbers:
        return f"class {box.name!r} is not among data.classes"
    if box.corners is None or not all(map(math.isfinite, box.corners)):
        return f"a box of {box.name!r} has corners that are no finite numbers"
    x1, y1, x2, y2 = box.corners
    shown = f"box {x1:g} {y1:g} {x2:g} {y2:g} of {box.name!r}"
    if x1 >= x2 or y1 >= y2:
        return f"{shown} is {'empty' if x1 == x2 or y1 == y2 else 'inverted'}"
    if size is not None:
        width, height = size
        x1, x2, y1, y2 = max(x1, 0), min(x2, width), max(y1, 0), min(y2, height)
    if x1 >= x2 or y1 >= y2 or x2 <= 0 or y2 <= 0:
        return f"{shown} lies outside of the image" + (f" of {size[0]:g} x {size[1]:g}" if size else "")
    return [x1, y1, x2, y2, numbers[box.name], box.is_difficult, box.is_crowd]
