"""Pascal VOC: a folder of JPEGImages/, Annotations/*.xml and, perhaps, ImageSets/Main/*.txt."""

from __future__ import annotations

import logging
import math
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from moco_ray.data.boxes.table import Bad, WrittenBox, WrittenImage
from moco_ray.data.daemon_pool import DaemonPool
from moco_ray.data.formats.extensions import IMAGE_EXTENSIONS
from moco_ray.data.labels import quoted
from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import shown

_IMAGES, _ANNOTATIONS, _LISTS = "JPEGImages", "Annotations", ("ImageSets", "Main")
_THREADS, _SAY_EVERY_S = 16, 2.0

log = logging.getLogger(__name__)


def is_voc(storage: Storage) -> bool:
    """Whether a folder has the two folders of Pascal VOC."""
    return {_IMAGES, _ANNOTATIONS} <= {name for name, _, is_folder in storage.list(storage.root) if is_folder}


def voc_splits(storage: Storage) -> list[str]:
    """Names of the lists of images of a folder."""
    names = [name for name, _, _ in storage.list(storage.join(*_LISTS))]
    return sorted(name.removesuffix(".txt") for name in names if name.endswith(".txt") and not name.startswith("."))


def read_voc(storage: Storage, split: str) -> tuple[list[WrittenImage], list[Bad]]:
    """Read the images of one list with their boxes, in its order; all images, by name, where there are no lists.

    VOC counts pixels from 1 and includes the last: a box xmin, ymin, xmax, ymax covers xmin - 1 .. xmax, as Detectron2 reads
    it. An image without a file of boxes, and a file of boxes without an image, are left out: what VOC's images show is
    written down completely, so no file does not say that there is nothing.

    Raises:
        ValueError: There is no such list, it is empty, or a file is no XML of VOC's kind.
        ReadError: The storage does not answer.
    """
    files = [entry for entry in storage.list(storage.join(_IMAGES)) if not entry[2] and not entry[0].startswith(".")]
    images = {
        _stem(name): (name, num_bytes) for name, num_bytes, _ in sorted(files) if _extension(name) in IMAGE_EXTENSIONS
    }
    written = {_stem(name) for name, _, _ in storage.list(storage.join(_ANNOTATIONS)) if _extension(name) == ".xml"}
    splits = voc_splits(storage)
    names = _names_of(storage, split, splits) if splits else sorted(images.keys() | written)
    bad = []
    for name in names:
        image = storage.join(_IMAGES, images.get(name, (name, 0))[0])
        if name not in images:
            bad.append(
                Bad(place=storage.uri(image), reason=f"there is no image of that name in {_IMAGES}", what="image")
            )
        elif name not in written:
            bad.append(Bad(place=storage.uri(image), reason=f"there is no {_ANNOTATIONS}/{name}.xml", what="image"))
    both = [name for name in names if name in images and name in written]

    def read(name: str) -> WrittenImage:
        parsed = _parse(storage.read_bytes(path := storage.join(_ANNOTATIONS, f"{name}.xml")), storage.uri(path))
        file, num_bytes = images[name]
        uri = storage.uri(storage.join(_IMAGES, file))
        return WrittenImage(uri=uri, num_bytes=num_bytes, size=parsed.size, boxes=parsed.boxes)

    found, last_s = [], time.monotonic()
    with DaemonPool(_THREADS) as pool:
        for image in pool.map(read, both):
            found.append(image)
            if time.monotonic() - last_s >= _SAY_EVERY_S:
                last_s = time.monotonic()
                log.info(f"read the boxes of {len(found):,} of {len(both):,} images")
    return found, bad


def _names_of(storage: Storage, split: str, splits: list[str]) -> list[str]:
    if split not in splits:
        raise ValueError(
            f"{shown(storage.uri(storage.root))} has no list ImageSets/Main/{split}.txt; it has {quoted(splits)}: choose one "
            "with detection.split or detection.test-split"
        )
    path = storage.join(*_LISTS, f"{split}.txt")
    lines = storage.read_bytes(path).decode("utf-8-sig", "replace").splitlines()
    names = list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))
    if not names:
        raise ValueError(f"{shown(storage.uri(path))} is empty: it names no image")
    return names


@dataclass(frozen=True)
class _Parsed:
    size: tuple[float, float] | None
    boxes: list[WrittenBox]


class _Builder(ET.TreeBuilder):
    """Refuses a DOCTYPE, with which a small file can become a huge one or name other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a DOCTYPE, which VOC's files have not")


def _parse(content: bytes, uri: str) -> _Parsed:
    try:
        root = ET.fromstring(content, ET.XMLParser(target=_Builder()))
    except (ET.ParseError, ValueError, LookupError) as error:
        raise ValueError(
            f"{shown(uri)} is no XML of Pascal VOC ({error}); mend it, or take its name out of the list of images"
        ) from error
    if root.tag != "annotation":
        raise ValueError(
            f"{shown(uri)} is no XML of Pascal VOC: it begins with <{root.tag}> instead of <annotation>; mend it, or take its "
            "name out of the list of images"
        )
    sides = [_number(root.findtext(f"size/{side}")) for side in ("width", "height")]
    size = (sides[0], sides[1]) if all(math.isfinite(side) and side > 0 for side in sides) else None
    return _Parsed(size, [_box(found) for found in root.findall("object")])


def _box(found: ET.Element) -> WrittenBox:
    own = found.find("bndbox")  # parts of the object have theirs inside
    x1, y1, x2, y2 = (_number(None if own is None else own.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
    return WrittenBox(
        name=(found.findtext("name") or "").strip(),
        corners=(x1 - 1, y1 - 1, x2, y2),
        is_difficult=(found.findtext("difficult") or "0").strip() not in ("0", ""),
    )


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _extension(name: str) -> str:
    return f".{name.rpartition('.')[2].lower()}"
