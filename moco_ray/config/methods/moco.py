"""MoCo v1 and v2 (He et al. 2020, arXiv:1911.05722; Chen et al. 2020, arXiv:2003.04297)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from moco_ray.config.method import MethodConfig
from moco_ray.config.methods.checks import check_dictionary, check_shuffle
from moco_ray.config.methods.floor import info_nce_floor

if TYPE_CHECKING:
    from moco_ray.core.encoders import Encoder
    from moco_ray.core.method import Method, Setting


@dataclass(frozen=True, kw_only=True)
class MoCoConfig(MethodConfig):
    """Momentum contrast. Defaults are MoCo v2's (arXiv:2003.04297)."""

    name: ClassVar[str] = "moco"

    queue_size: int | None = 65536
    """Keys in the dictionary (the paper's K). None: half the images, at most 65536."""
    temperature: float = 0.2
    """Temperature of InfoNCE (tau): 0.07 in v1, 0.2 in v2."""
    encoder_momentum: float = 0.999
    """Momentum of the key encoder (the paper's m)."""
    shuffle_bn: bool | None = None
    """Shuffle key views among BatchNorm groups, so that a query and its key share no batch statistics. None: where
    the network has BatchNorm."""
    symmetric: bool = False
    """Let each view be the query of the other, as an option of the reference's CIFAR-10 demo does: twice the work, the
    sum of both losses, and both keys enter the queue."""

    @property
    def shuffles_keys(self) -> bool:
        return self.shuffle_bn is not False

    def check(self, global_batch_size: int) -> None:
        super().check(global_batch_size)
        check_dictionary("method.queue-size", self.queue_size)
        keys = self._keys_a_step(global_batch_size)
        if self.queue_size is not None and self.queue_size < keys:
            raise ValueError(
                f"method.queue-size {self.queue_size} is smaller than one batch of {keys} keys; use at least {keys}"
            )

    def resolve(self, *, num_images: int, global_batch_size: int, has_batch_norm: bool) -> Self:
        """Size the queue, and shuffle where that matters."""
        check_shuffle(self.shuffle_bn, has_batch_norm)
        queue_size = self.queue_size
        if queue_size is None:
            keys = self._keys_a_step(global_batch_size)
            queue_size = max(keys, min(65536, num_images // 2) // keys * keys)
        return replace(self, queue_size=queue_size, shuffle_bn=has_batch_norm and self.shuffles_keys)

    def warning(self, num_images: int, global_batch_size: int) -> str | None:
        """Say so when the queue holds too much of the data set."""
        assert self.queue_size is not None
        if self.queue_size <= num_images / 2:
            return None
        fewest = self._keys_a_step(global_batch_size)
        better = max(fewest, num_images // 2)
        advice = f"method.queue-size {better} or less is better"
        if better >= self.queue_size:  # a queue holds at least one batch
            advice = "more images are better, or a smaller optim.global-batch-size with a smaller method.queue-size"
        return (
            f"the queue of {self.queue_size:,} keys is larger than half of the {num_images:,} images: old keys of an image "
            f"become its own negatives; {advice}"
        )

    def num_entries(self, num_images: int) -> int:
        """Keys in the queue."""
        assert self.queue_size is not None
        return self.queue_size

    def chance_loss(self, global_batch_size: int) -> float:
        """log(K + 1), for each of the losses."""
        return (1 + self.symmetric) * math.log(self.num_entries(0) + 1)

    def chance_key(self, global_batch_size: int) -> float:
        """Of the own key and K in the queue."""
        return 100 / (self.num_entries(0) + 1)

    def floor_loss(self, global_batch_size: int, dim: int) -> float:
        """InfoNCE's for a queue that holds all directions alike, for each of the losses."""
        return (1 + self.symmetric) * info_nce_floor(self.num_entries(0), self.temperature, dim)

    def build(self, query_encoder: Encoder, setting: Setting) -> Method:
        from moco_ray.core.methods.moco import MoCo

        return MoCo(query_encoder, self, setting.generator())

    def _keys_a_step(self, global_batch_size: int) -> int:
        return (1 + self.symmetric) * global_batch_size
