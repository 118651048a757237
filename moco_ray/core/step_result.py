"""What a training step measured."""

from __future__ import annotations

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
    """(7,) float64: loss sum, queries that find their key, sum of cosines of query and key, and the row
    digest as four sums of 16-bit words, all summed over ranks."""
    global_batch_size: int
    """Images that the sums are over."""
    queries_per_image: int = 1
    """Queries of each of them."""

    @classmethod
    def over_ranks(cls, sums: Tensor, batch: Batch, queries_per_image: int) -> StepResult:
        """Add up (3,) float64 sums of loss, correct queries and cosines over each rank's queries. All ranks must call."""
        digest = rows_digest(batch.rows)
        words = [float(digest >> (16 * i) & 0xFFFF) for i in range(4)]  # sums of 16-bit words are exact in float64
        own = torch.cat([sums, torch.tensor(words, dtype=torch.float64).to(sums.device, non_blocking=True)])  # (7,)
        totals, size = collectives.all_reduce_sum(own), batch.global_batch_size
        return cls(totals=totals, global_batch_size=size, queries_per_image=queries_per_image)

    def values(self) -> dict[str, float | int]:
        """Wait for the step and read train/loss, train/contrast_accuracy (percent), cosine and rows_digest."""
        loss, correct, cosine, *words = self.totals.tolist()
        digest = sum(int(word) << (16 * i) for i, word in enumerate(words)) % 2**64
        queries = self.global_batch_size * self.queries_per_image
        return {
            "train/loss": loss / self.global_batch_size,
            "train/contrast_accuracy": 100.0 * correct / queries,
            "train/positive_cosine": cosine / queries,
            "rows_digest": digest,
        }
