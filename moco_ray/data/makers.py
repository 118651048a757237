"""What a batch holds of its images: arrays that are functions of an image, its label and its position."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moco_ray.config.views import ViewsConfig
from moco_ray.data.views import Wanted, make_views


class Sample(NamedTuple):
    """One image, and where what is made of it goes."""

    image: NDArray[np.uint8]
    """(h, w, 3)."""
    label: int
    """Its class; -1 without one."""
    position: int
    """In the run, on which random draws depend."""
    out: Mapping[str, NDArray[Any]]
    """Its part of each array, to be filled."""
    targets: NDArray[np.float32] | None = None
    """What its row of the manifest says beside the class, if anything."""


class Maker(ABC):
    """Makes the arrays of a batch. Picklable."""

    shuffled: ClassVar[str | None] = None
    """The array whose rows may change BatchNorm groups (`shuffle_bn`)."""
    shuffle_bn: bool = False
    """Whether they do."""

    @abstractmethod
    def arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Of each array by name, the shape of what it holds of one image, and its dtype."""

    @abstractmethod
    def make(self, samples: Sequence[Sample], seed: int) -> None:
        """Fill the parts of some images: a pure function of image, label, position and seed."""

    def bytes_per_image(self) -> int:
        """Memory of what is made of one image."""
        return sum(
            int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize for shape, dtype in self.arrays().values()
        )

    def empty(self, *shape: int) -> dict[str, NDArray[Any]]:
        """Arrays for so many images, not filled yet."""
        return {name: np.empty((*shape, *own), dtype=dtype) for name, (own, dtype) in self.arrays().items()}


@dataclass(frozen=True)
class TwoViews(Maker):
    """A query view and a key view of each image: `query` and `key`, (H, W, 3) uint8."""

    views: ViewsConfig
    """Augmentation."""
    shuffle_bn: bool
    """Whether key views change BatchNorm groups (arXiv:1911.05722, Sec. 3.3)."""
    shuffled = "key"

    def arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Two crops."""
        crop = (self.views.crop_px, self.views.crop_px, 3)
        return {"query": (crop, "uint8"), "key": (crop, "uint8")}

    def make(self, samples: Sequence[Sample], seed: int) -> None:
        """Make both views of each image."""
        wanted = [
            Wanted(sample.image, sample.position, view, sample.out[name])
            for sample in samples
            for view, name in enumerate(("query", "key"))
        ]
        make_views(wanted, self.views, seed=seed)


@dataclass(frozen=True)
class LabelledView(Maker):
    """One view of each image, which gradients flow for, and what it is labelled with.

    `query`: (H, W, 3) uint8; `label`: () int64; with several labels an image `targets`: (num_targets,) float32 instead, 1
    with a label, 0 without and NaN where nobody knows.
    """

    views: ViewsConfig
    """Augmentation; that of view 1 where the two differ."""
    num_targets: int = 0
    """Labels that an image may have at once; 0: it has one class."""

    def arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """A crop and its label or targets."""
        crop = ((self.views.crop_px, self.views.crop_px, 3), "uint8")
        if self.num_targets:
            return {"query": crop, "targets": ((self.num_targets,), "float32")}
        return {"query": crop, "label": ((), "int64")}

    def make(self, samples: Sequence[Sample], seed: int) -> None:
        """Make the view of each image."""
        make_views([Wanted(s.image, s.position, 0, s.out["query"]) for s in samples], self.views, seed=seed)
        for sample in samples:
            if self.num_targets:
                sample.out["targets"][...] = sample.targets
            else:
                sample.out["label"][...] = sample.label
