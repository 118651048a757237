"""The end-to-end dictionary that MoCo is compared with (He et al. 2020, arXiv:1911.05722, Sec. 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from moco_ray.config.method import MethodConfig
from moco_ray.config.methods.checks import check_shuffle
from moco_ray.config.methods.floor import info_nce_floor

if TYPE_CHECKING:
    from moco_ray.core.encoders import Encoder
    from moco_ray.core.method import Method, Setting


@dataclass(frozen=True, kw_only=True)
class EndToEndConfig(MethodConfig):
    """In-batch negatives. Defaults are v1's (arXiv:1911.05722, Fig. 3: the end-to-end curve)."""

    name: ClassVar[str] = "end-to-end"

    temperature: float = 0.07
    """Temperature of InfoNCE (tau)."""
    shuffle_bn: bool | None = None
    """Shuffle key views among BatchNorm groups, as for MoCo (Sec. 3.3). None: where the network has BatchNorm."""

    @property
    def shuffles_keys(self) -> bool:
        return self.shuffle_bn is not False

    def resolve(self, *, num_images: int, global_batch_size: int, has_batch_norm: bool) -> Self:
        """Shuffle where that matters."""
        check_shuffle(self.shuffle_bn, has_batch_norm)
        return replace(self, shuffle_bn=has_batch_norm and self.shuffles_keys)

    def chance_loss(self, global_batch_size: int) -> float:
        """log(B)."""
        return math.log(global_batch_size)

    def chance_key(self, global_batch_size: int) -> float:
        """Of B keys."""
        return 100 / global_batch_size

    def floor_loss(self, global_batch_size: int, dim: int) -> float:
        """InfoNCE's among B keys."""
        return info_nce_floor(global_batch_size - 1, self.temperature, dim)

    def build(self, query_encoder: Encoder, setting: Setting) -> Method:
        from moco_ray.core.methods.end_to_end import EndToEnd

        return EndToEnd(query_encoder, self)
