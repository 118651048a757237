"""SimCLR (Chen et al. 2020, arXiv:2002.05709)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from moco_ray.config.methods.checks import check_fields

if TYPE_CHECKING:
    from moco_ray.core.encoders import Encoder
    from moco_ray.core.method import Setting
    from moco_ray.core.methods.simclr import SimCLR


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig:
    """SimCLR."""

    name: ClassVar[str] = "simclr"
    batch_norm: ClassVar[Literal["group", "global"]] = "global"
    shuffles_keys: ClassVar[bool] = False

    temperature: float = 0.1
    """Temperature of NT-Xent (tau; arXiv:2002.05709, Table 5: 0.1 is best with normalised embeddings)."""

    def check(self, global_batch_size: int) -> None:
        """Check the fields.

        Raises:
            ValueError: They are impossible.
        """
        check_fields(temperature=self.temperature)

    def decide(self, *, num_images: int, global_batch_size: int, has_batch_norm: bool) -> SimCLRConfig:
        """Nothing is automatic."""
        return self

    def warning(self, num_images: int, global_batch_size: int) -> str | None:
        """The batch is what it is."""
        return None

    def num_entries(self, num_images: int) -> int:
        """None: the keys are those of the batch."""
        return 0

    def chance_loss(self, global_batch_size: int) -> float:
        """log(2B - 1)."""
        return math.log(2 * global_batch_size - 1)

    def build(self, query_encoder: Encoder, setting: Setting) -> SimCLR:
        """Take the one encoder."""
        from moco_ray.core.methods.simclr import SimCLR

        return SimCLR(query_encoder, self)
