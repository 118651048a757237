"""What a training step measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from moco_ray.core import collectives
from moco_ray.core.batch import Batch
from moco_ray.core.hashing import rows_digest


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step measured over the global batch; still on the device, so that nobody waits for it."""

    totals: Tensor
    """(S + 4,) float64: sums, and the row digest as four sums of 16-bit words, all summed over ranks."""
    means: Mapping[str, tuple[float, int]]
    """For each of the S sums the name of its mean, a factor, and what it is divided by."""

    @classmethod
    def over_ranks(cls, sums: Tensor, batch: Batch, means: Mapping[str, tuple[float, int]]) -> StepResult:
        """Add up what ranks measured. All ranks must call.

        Args:
            sums: (S,) float64 over this rank's images.
            batch: This rank's part of the batch.
            means: What becomes of the sums; one of them is train/loss.
        """
        digest = rows_digest(batch.rows)
        words = [float(digest >> (16 * i) & 0xFFFF) for i in range(4)]  # sums of 16-bit words are exact in float64
        own = torch.cat([sums, torch.tensor(words, dtype=torch.float64).to(sums.device, non_blocking=True)])
        return cls(totals=collectives.all_reduce_sum(own), means=means)

    def values(self) -> dict[str, float | int]:
        """Wait for the step and read its means and rows_digest."""
        *sums, a, b, c, d = self.totals.tolist()
        means = {
            name: factor * total / count
            for (name, (factor, count)), total in zip(self.means.items(), sums, strict=True)
        }
        digest = sum(int(word) << (16 * i) for i, word in enumerate((a, b, c, d))) % 2**64
        return {**means, "rows_digest": digest}


def contrast_means(images: int, queries_per_image: int) -> dict[str, tuple[float, int]]:
    """What becomes of the sums of loss, correct queries and cosines of a contrastive method over so many images."""
    queries = images * queries_per_image
    return {
        "train/loss": (1.0, images),
        "train/contrast_accuracy": (100.0, queries),
        "train/positive_cosine": (1.0, queries),
    }
