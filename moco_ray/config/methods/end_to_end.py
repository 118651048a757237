"""The end-to-end dictionary that MoCo is compared with (He et al. 2020, arXiv:1911.05722, Sec. 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from moco_ray.config.methods.checks import check_fields, check_shuffle

if TYPE_CHECKING:
    from moco_ray.core.encoders import Encoder
    from moco_ray.core.method import Setting
    from moco_ray.core.methods.end_to_end import EndToEnd


@dataclass(frozen=True, kw_only=True)
class EndToEndConfig:
    """In-batch negatives. Defaults are v1's (arXiv:1911.05722, Fig. 3: the end-to-end curve)."""

    name: ClassVar[str] = "end-to-end"
    batch_norm: ClassVar[Literal["group", "global"]] = "group"

    temperature: float = 0.07
    """Temperature of InfoNCE (tau)."""
    shuffle_bn: bool | None = None
    """Shuffle key views among BatchNorm groups, as for MoCo (Sec. 3.3). None: where the network has BatchNorm."""

    @property
    def shuffles_keys(self) -> bool:
        """Whether key views change BatchNorm groups."""
        return self.shuffle_bn is not False

    def check(self, global_batch_size: int) -> None:
        """Check the fields.

        Raises:
            ValueError: They are impossible.
        """
        check_fields(temperature=self.temperature)

    def decide(self, *, num_images: int, global_batch_size: int, has_batch_norm: bool) -> EndToEndConfig:
        """Shuffle where that matters."""
        check_shuffle(self.shuffle_bn, has_batch_norm)
        return replace(self, shuffle_bn=has_batch_norm and self.shuffles_keys)

    def warning(self, num_images: int, global_batch_size: int) -> str | None:
        """The dictionary is what it is."""
        return None

    def num_entries(self, num_images: int) -> int:
        """None: the keys are those of the batch."""
        return 0

    def chance_loss(self, global_batch_size: int) -> float:
        """log(B)."""
        return math.log(global_batch_size)

    def build(self, query_encoder: Encoder, setting: Setting) -> EndToEnd:
        """Build both encoders."""
        from moco_ray.core.methods.end_to_end import EndToEnd

        return EndToEnd(query_encoder, self)
