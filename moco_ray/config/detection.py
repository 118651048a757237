"""How a detector is trained and tested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moco_ray.config.types import take_own_values


@dataclass(frozen=True, kw_only=True)
class DetectionConfig:
    """Faster R-CNN on a pretrained ResNet. Defaults are the MoCo papers' on Pascal VOC (arXiv:1911.05722, Sec. 4.2)."""

    neck: Literal["c4", "fpn"] = "c4"
    """Where boxes are looked for: "c4" (one map of stride 16; the last stage of the ResNet looks at each region) or "fpn"
    (a feature pyramid; two linear layers look at each region)."""
    annotations: str = ""
    """The boxes of data.uri, if these are not a folder of Pascal VOC: a JSON file of COCO's format."""
    split: str = "trainval"
    """The list of ImageSets/Main of data.uri to train on; all images where there is no such folder."""
    test_annotations: str = ""
    """The boxes of eval.uri, likewise."""
    test_split: str = "test"
    """The list of ImageSets/Main of eval.uri to test on, or of data.uri if eval.uri is empty."""
    min_px: tuple[int, ...] = tuple(range(480, 801, 32))
    """Shorter sides of training images, one of which is drawn for each."""
    max_px: int = 1333
    """Longest side of an image: one that would be longer is scaled down to it."""
    test_px: int = 800
    """Shorter side of test images."""
    flip: bool = True
    """Whether half of the training images are mirrored."""
    max_boxes: int = 100
    """Boxes of an image that are trained on, at most: the first ones."""
    anchor_px: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Sides of the anchors: all at each place of "c4", five numbers, one for each level, of "fpn"."""
    proposals: int = 2000
    """Proposals that training sees of an image (Detectron2: 2000 for C4, 1000 for FPN), all of that for "fpn" and half of it
    for "c4" when testing."""
    anchors_per_image: int = 256
    """Anchors of an image that are drawn to learn proposals from, half of them on objects where there are as many."""
    regions_per_image: int = 512
    """Proposals of an image that are drawn to learn classes and boxes from, a quarter of them on objects."""
    score_threshold: float = 0.05
    """Detections with lower scores are left out."""
    detections_per_image: int = 100
    """Detections in an image, at most."""

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: A number is impossible.
        """
        take_own_values(self, "detection")
        numbers = {
            "max-px": self.max_px,
            "test-px": self.test_px,
            "max-boxes": self.max_boxes,
            "proposals": self.proposals,
            "anchors-per-image": self.anchors_per_image,
            "regions-per-image": self.regions_per_image,
            "detections-per-image": self.detections_per_image,
        }
        for name, value in numbers.items():
            if value < 1:
                raise ValueError(f"detection.{name} is {value}; use 1 or more")
        for name, sizes in {"min-px": self.min_px, "anchor-px": self.anchor_px}.items():
            if not sizes or min(sizes) < 1:
                raise ValueError(
                    f"detection.{name} is {' '.join(map(str, sizes)) or 'empty'}; use one or more sides in pixels"
                )
        if max(*self.min_px, self.test_px) > self.max_px:
            raise ValueError(
                f"detection.max-px {self.max_px} is less than a shorter side ({max(*self.min_px, self.test_px)}) of "
                "detection.min-px or detection.test-px; use a longer one"
            )
        if self.neck == "fpn" and len(self.anchor_px) != 5:
            raise ValueError(
                f"detection.anchor-px has {len(self.anchor_px)} sides; detection.neck fpn has five levels and needs five"
            )
        if not 0 <= self.score_threshold < 1:
            raise ValueError(f"detection.score-threshold is {self.score_threshold}; use a number in [0, 1)")

    @property
    def pixels_per_image(self) -> int:
        """Pixels of a training image, at most: the room that one takes in a batch."""
        return max(self.min_px) * self.max_px
