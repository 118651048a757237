"""How well detections match boxes: COCO's average precision."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]


class Found(NamedTuple):
    """Detections in one image."""

    boxes: FloatArray
    """(n, 4) x1, y1, x2, y2 in pixels of the image as it is stored."""
    labels: NDArray[np.int64]
    """(n,) classes, from 0."""
    scores: FloatArray
    """(n,)"""


def check_installed() -> None:
    """Refuse to begin what could not be measured.

    Raises:
        ValueError: pycocotools is not installed.
    """
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"average precision is measured with pycocotools, which cannot be imported ({error}); install it: "
            "pip install 'moco_ray[detect]'"
        ) from error


def average_precision(
    found: Sequence[Found], targets: Sequence[NDArray[np.float32]], classes: Sequence[str], most: int = 100
) -> dict[str, float]:
    """COCO's measures of detections, in percent.

    Difficult boxes are neither found nor missed, as Pascal VOC says: a detection that overlaps one as it would have to is
    not counted, however many there are; crowds likewise, as COCO says. Precision is the mean over 101 recalls, in VOC's own
    program of 2007 over 11.

    Args:
        found: Detections of each image.
        targets: Of each image (n, 7), as data/boxes/table.py has them, in pixels of the image as it is stored.
        classes: Names.
        most: Detections of an image that count, at most.

    Returns:
        AP (mean over overlaps .5, .55 … .95), AP50, AP75, and AP50/NAME of each class that has boxes.
    """
    from pycocotools.coco import COCO

    truth, detections = COCO(), COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        for table, annotations in ((truth, _of_boxes(targets)), (detections, _of_found(found))):
            table.dataset = {
                "images": [{"id": i} for i in range(len(targets))],
                "categories": [{"id": i} for i in range(len(classes))],
                "annotations": [{"id": i + 1, **annotation} for i, annotation in enumerate(annotations)],
            }
            table.createIndex()
        evaluation = _evaluation(truth, detections)
        evaluation.params.maxDets = [most]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][
        :, :, :, 0, 0
    ]  # (10 overlaps, 101 recalls, classes), -1 where there is no box
    by_class = 100 * precision.mean(axis=1)  # (10, classes)
    is_there = by_class[0] >= 0
    by_class = by_class[:, is_there]
    measures = {"AP": by_class.mean(), "AP50": by_class[0].mean(), "AP75": by_class[5].mean()} if by_class.size else {}
    names = [name for name, there in zip(classes, is_there, strict=True) if there]
    measures.update({f"AP50/{name}": value for name, value in zip(names, by_class[0], strict=True)})
    return {name: float(value) for name, value in measures.items()}


def _evaluation(truth: Any, detections: Any) -> Any:
    from pycocotools.cocoeval import COCOeval

    class Evaluation(COCOeval):  # type: ignore[misc]
        """COCO's, which treats difficult boxes as crowds but for how it measures their overlap with a detection."""

        def computeIoU(self, imgId: int, catId: int) -> Any:
            boxes = self._gts[imgId, catId]
            for box in boxes:
                box["iscrowd"] = int(box["is_crowd"])
            overlaps = super().computeIoU(imgId, catId)
            for box in boxes:
                box["iscrowd"] = int(box["is_crowd"] or box["is_difficult"])
            return overlaps

    return Evaluation(truth, detections, "bbox")


def _of_boxes(targets: Sequence[NDArray[np.float32]]) -> list[dict[str, Any]]:
    return [
        {
            **_box(image, corners, label),
            "is_difficult": bool(difficult),
            "is_crowd": bool(crowd),
            "iscrowd": int(difficult or crowd),
        }
        for image, boxes in enumerate(targets)
        for *corners, label, difficult, crowd in boxes.tolist()
    ]


def _of_found(found: Sequence[Found]) -> list[dict[str, Any]]:
    return [
        {**_box(image, corners, label), "score": score, "iscrowd": 0}
        for image, own in enumerate(found)
        for corners, label, score in zip(own.boxes.tolist(), own.labels.tolist(), own.scores.tolist(), strict=True)
    ]


def _box(image: int, corners: Sequence[float], label: float) -> dict[str, Any]:
    x1, y1, x2, y2 = corners
    box = [x1, y1, x2 - x1, y2 - y1]
    return {"image_id": image, "category_id": int(label), "bbox": box, "area": box[2] * box[3]}
