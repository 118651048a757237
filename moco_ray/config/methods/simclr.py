"""SimCLR (Chen et al. 2020, arXiv:2002.05709)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from moco_ray.config.method import MethodConfig
from moco_ray.config.methods.floor import info_nce_floor

if TYPE_CHECKING:
    from moco_ray.core.encoders import Encoder
    from moco_ray.core.method import Method, Setting


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig(MethodConfig):
    """SimCLR."""

    name: ClassVar[str] = "simclr"
    batch_norm: ClassVar[Literal["group", "global"]] = "global"

    temperature: float = 0.1
    """Temperature of NT-Xent (tau; arXiv:2002.05709, Table 5: 0.1 is best with normalised embeddings)."""

    def chance_loss(self, global_batch_size: int) -> float:
        """log(2B - 1)."""
        return math.log(2 * global_batch_size - 1)

    def chance_key(self, global_batch_size: int) -> float:
        """Of both views of B images, but the query itself."""
        return 100 / (2 * global_batch_size - 1)

    def floor_loss(self, global_batch_size: int, dim: int) -> float:
        """InfoNCE's among both views of B images, but the query itself."""
        return info_nce_floor(2 * global_batch_size - 2, self.temperature, dim)

    def build(self, query_encoder: Encoder, setting: Setting) -> Method:
        from moco_ray.core.methods.simclr import SimCLR

        return SimCLR(query_encoder, self)
