"""The memory bank that MoCo is compared with (Wu et al. 2018, arXiv:1805.01978; arXiv:1911.05722, Sec. 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from moco_ray.config.method import MethodConfig
from moco_ray.config.methods.checks import check_dictionary
from moco_ray.config.methods.floor import info_nce_floor

if TYPE_CHECKING:
    from moco_ray.core.encoders import Encoder
    from moco_ray.core.method import Method, Setting


@dataclass(frozen=True, kw_only=True)
class MemoryBankConfig(MethodConfig):
    """A memory bank with InfoNCE, as the v1 paper compares it (arXiv:1911.05722, Fig. 3).

    Wu et al. train with noise-contrastive estimation (NCE) instead, an approximation of the same softmax; that is not
    built. Keys are of earlier batches, and share no statistics with their queries: they are not shuffled.
    """

    name: ClassVar[str] = "memory-bank"

    num_negatives: int | None = None
    """Entries sampled as negatives for each batch (K). None: half the images, at most 65536."""
    temperature: float = 0.07
    """Temperature of InfoNCE (tau)."""
    bank_momentum: float = 0.5
    """Momentum of an image's entry when the image is seen again (Wu et al. 2018, Sec. 3.2 and their code)."""

    def check(self, global_batch_size: int) -> None:
        super().check(global_batch_size)
        check_dictionary("method.num-negatives", self.num_negatives)
        if not 0 <= self.bank_momentum < 1:
            raise ValueError(f"method.bank-momentum is {self.bank_momentum}; use a number in [0, 1), such as 0.5")
        if self.num_negatives is not None and self.num_negatives < 1:
            raise ValueError(f"method.num-negatives is {self.num_negatives}; use at least 1")

    def resolve(self, *, num_images: int, global_batch_size: int, has_batch_norm: bool) -> Self:
        """Size the sample."""
        if self.num_negatives is not None:
            return self
        return replace(self, num_negatives=max(1, min(65536, num_images // 2)))

    def warning(self, num_images: int, global_batch_size: int) -> str | None:
        """Say so when the sample repeats itself."""
        assert self.num_negatives is not None
        if self.num_negatives <= num_images:
            return None
        return (
            f"method.num-negatives {self.num_negatives:,} is more than the {num_images:,} entries of the bank: entries are "
            f"drawn several times; {max(1, num_images // 2)} or less is better"
        )

    def num_entries(self, num_images: int) -> int:
        """One for each image."""
        return num_images

    def chance_loss(self, global_batch_size: int) -> float:
        """log(K + 1)."""
        assert self.num_negatives is not None
        return math.log(self.num_negatives + 1)

    def chance_key(self, global_batch_size: int) -> float:
        """Of the own entry and K others."""
        assert self.num_negatives is not None
        return 100 / (self.num_negatives + 1)

    def floor_loss(self, global_batch_size: int, dim: int) -> float:
        """InfoNCE's among K entries of other images and the image's own."""
        assert self.num_negatives is not None
        return info_nce_floor(self.num_negatives, self.temperature, dim)

    def build(self, query_encoder: Encoder, setting: Setting) -> Method:
        from moco_ray.core.methods.memory_bank import MemoryBank

        return MemoryBank(query_encoder, self, setting)
