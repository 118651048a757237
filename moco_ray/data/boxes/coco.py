"""COCO: a folder of images and a JSON file with the boxes of all."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from moco_ray.data.boxes.table import Bad, WrittenBox, WrittenImage
from moco_ray.data.folders import list_folder
from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import shown

_TABLES = ("images", "annotations", "categories")


def read_json(storage: Storage) -> dict[str, Any]:
    """Read a file of COCO's format.

    Raises:
        ValueError: It is none.
        ReadError: The storage does not answer.
    """
    uri = shown(storage.uri(storage.root))
    try:
        content = json.loads(storage.read_bytes(storage.root))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{uri} is no JSON ({error}); name a file of COCO's format, such as instances_train2017.json"
        ) from error
    lacking = [name for name in _TABLES if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if lacking:
        raise ValueError(
            f"{uri} is no file of COCO's format: it has no list of {' and '.join(lacking)}; name one such as "
            "instances_train2017.json"
        )
    return content  # type: ignore[no-any-return]


def coco_numbers(images: Storage, annotations: Storage) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ids of images by URI and of classes by name, as a JSON file has them."""
    content = read_json(annotations)
    by_uri = {images.uri(images.join(str(image["file_name"]))): image["id"] for image in content["images"]}
    return by_uri, {str(category["name"]): category["id"] for category in content["categories"]}


def read_coco(images: Storage, annotations: Storage) -> tuple[list[WrittenImage], list[Bad]]:
    """Read the images that a JSON file names, with their boxes, in its order.

    A box x, y, width, height covers x .. x + width, as Detectron2 reads it. An image without boxes shows nothing that was
    looked for, and is kept. What is named and not there is left out, as are boxes of images that are not named.

    Raises:
        ValueError: The file is no such JSON, or the folder holds none of the images.
        ReadError: The storage does not answer.
    """
    content, uri = read_json(annotations), annotations.uri(annotations.root)
    try:
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        boxes: Mapping[Any, list[WrittenBox]] = _boxes_by_image(content["annotations"], names)
        wanted = {image["id"]: image for image in content["images"]}
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{shown(uri)} is no file of COCO's format: an entry has no {error}; mend it") from error
    bad = [
        Bad(place=uri, reason=f"boxes of image_id {image}, which the file does not name")
        for image, own in boxes.items()
        if image not in wanted
        for _ in own
    ]
    root = images.root.rstrip("/")
    sizes = {file.path.removeprefix(f"{root}/"): file.num_bytes for file in list_folder(images, uri, ()).files}
    written = []
    for key, image in wanted.items():
        path = images.join(files[key])
        if files[key] not in sizes:
            bad.append(Bad(place=images.uri(path), reason="there is no such image", what="image"))
            continue
        width, height = image.get("width"), image.get("height")
        size = (float(width), float(height)) if width and height else None
        own = boxes.get(key, [])
        written.append(WrittenImage(uri=images.uri(path), num_bytes=sizes[files[key]], size=size, boxes=own))
    if not written:
        raise ValueError(
            f"none of the {len(wanted):,} images that {shown(uri)} names lies in {shown(images.uri(images.root))}"
            + (f": the first would be {files[next(iter(wanted))]}" if wanted else "")
        )
    return written, bad


def _boxes_by_image(annotations: Sequence[Mapping[str, Any]], names: Mapping[Any, str]) -> dict[Any, list[WrittenBox]]:
    boxes: dict[Any, list[WrittenBox]] = defaultdict(list)
    for entry in annotations:
        category = entry["category_id"]
        box = WrittenBox(
            name=names.get(category, f"category_id {category}"),
            corners=_corners(entry.get("bbox")),
            is_crowd=bool(entry.get("iscrowd", 0)),
        )
        boxes[entry["image_id"]].append(box)
    return boxes


def _corners(box: Any) -> tuple[float, float, float, float] | None:
    try:
        x, y, width, height = map(float, box)
    except (TypeError, ValueError):
        return None
    return x, y, x + width, y + height
