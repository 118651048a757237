"""Find the images and boxes that a user named."""

from __future__ import annotations

from collections.abc import Sequence

from moco_ray.data.boxes.coco import read_coco
from moco_ray.data.boxes.table import Bad, BoxedImages, WrittenImage, check_boxes
from moco_ray.data.boxes.voc import is_voc, read_voc, voc_splits
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.storage.uris import shown

_AND = " + "


def read_boxes(
    uri: str,
    annotations: str,
    split: str,
    classes: Sequence[str],
    options: StorageOptions,
    annotation_options: StorageOptions,
    *,
    needs_all: bool = True,
) -> BoxedImages:
    """Read a data set of boxed images.

    Args:
        uri: A folder of Pascal VOC, or several as "VOC2007 + VOC2012"; or a folder of images.
        annotations: A JSON file of COCO's format; "": the folders are of Pascal VOC.
        split: The list of images of Pascal VOC.
        classes: Names that count; none: all.
        options: Access to the images.
        annotation_options: Access to the JSON file, which may lie elsewhere.
        needs_all: Whether each of the classes must have a box.

    Raises:
        ValueError: What is there is neither, or nothing of it can be used.
        ReadError: The storage does not answer.
    """
    if annotations:
        images, bad = read_coco(Storage.open(uri, options), Storage.open(annotations, annotation_options))
        return check_boxes(images, classes, shown(annotations), bad, needs_all=needs_all)
    images, bad = [], []
    for place in uri.split(_AND):
        own, own_bad = _read_one(place.strip(), split, options)
        images += own
        bad += own_bad
    return check_boxes(images, classes, f"{shown(uri)} ({split})", bad, needs_all=needs_all)


def has_split(uri: str, split: str, options: StorageOptions) -> bool:
    """Whether each of the folders of Pascal VOC has a list of images of that name."""
    return all(split in voc_splits(Storage.open(place.strip(), options)) for place in uri.split(_AND))


def _read_one(place: str, split: str, options: StorageOptions) -> tuple[list[WrittenImage], list[Bad]]:
    storage = Storage.open(place, options)
    if is_voc(storage):
        return read_voc(storage, split)
    folders = [name for name, _, is_folder in storage.list(storage.root) if is_folder]
    below = [name for name in sorted(folders) if is_voc(storage.child(name))]
    if below:
        meant = _AND.join(storage.uri(storage.join(name)) for name in below)
        raise ValueError(
            f"{shown(place)} has no JPEGImages/ and Annotations/, but what is in it has: name {shown(meant)!r}"
        )
    if not folders and not storage.exists(storage.root):
        raise ValueError(f"{shown(place)} does not exist; check the path")
    raise ValueError(
        f"{shown(place)} is no folder of Pascal VOC, which has JPEGImages/ and Annotations/; for images with a JSON file of "
        "COCO's format name that with detection.annotations (detection.test-annotations for eval.uri)"
    )
