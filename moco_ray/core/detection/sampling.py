"""Which anchors and regions of an image are learned from."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco_ray.core.hashing import hash64


class PositionSampler:
    """Draws a fixed number of positives and negatives of each image, in the place of torchvision's sampler.

    The draw is a pure function of seed, the image's position in the run, and the labels: no rank and no batch changes it.

    Attributes:
        positions: Of the images whose labels come next, (n,), in the run.
        num_drawn: How many were drawn, over all images of the last call.
    """

    def __init__(self, per_image: int, positive_fraction: float, *, seed: int, key: int) -> None:
        """Make a sampler.

        Args:
            per_image: How many to draw; fewer where there are fewer.
            positive_fraction: Share of positives, at most.
            seed: Of the run.
            key: Keeps the draws of two samplers apart.
        """
        self.per_image, self.positive_fraction, self._words = per_image, positive_fraction, (seed, key)
        self.positions: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.num_drawn = 0

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Draw from labels (n,) of each image: positives from 1 on, negatives 0, others left out.

        Returns:
            For each image two masks (n,): which positives and which negatives are drawn.
        """
        assert len(labels) == len(self.positions)
        self.num_drawn = 0
        drawn: list[list[Tensor]] = [[], []]
        for position, label in zip(self.positions.tolist(), labels, strict=True):
            positive, negative = (torch.where(mask)[0].cpu().numpy() for mask in (label >= 1, label == 0))
            num_positive = min(len(positive), int(self.per_image * self.positive_fraction))
            num_negative = min(len(negative), self.per_image - num_positive)
            for masks, among, count in zip(drawn, (positive, negative), (num_positive, num_negative), strict=True):
                chosen = self._draw(among, count, position)
                mask = torch.zeros(len(label), dtype=torch.bool, device=label.device)
                mask[torch.from_numpy(chosen).to(label.device)] = True
                masks.append(mask)
                self.num_drawn += count
        return drawn[0], drawn[1]

    def _draw(self, among: NDArray[np.int64], count: int, position: int) -> NDArray[np.int64]:
        if count == len(among):
            return among
        return among[np.argpartition(hash64(*self._words, position, among), count)[:count]]
