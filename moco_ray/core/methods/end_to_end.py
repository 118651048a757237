"""The end-to-end dictionary that MoCo is compared with: in-batch keys, gradients to both encoders.

He et al. 2020, arXiv:1911.05722, Sec. 3.2 ("Relations to previous mechanisms") and Fig. 2a.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from moco_ray.core.batch import Batch
from moco_ray.core.encoders import Encoder, key_encoder_of
from moco_ray.core.info_nce import Loss, info_nce
from moco_ray.core.method import Apply, Method, Setting
from moco_ray.core.methods.checks import check_fields, check_shuffle


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
        return EndToEnd(query_encoder, self)


class EndToEnd(Method):
    """Two encoders that begin alike and both learn by gradients; each key is a negative of the other queries."""

    is_separable = False

    def __init__(self, query_encoder: Encoder, config: EndToEndConfig) -> None:
        super().__init__()
        self.config = config
        self.query_encoder = query_encoder
        self.key_encoder = key_encoder_of(query_encoder)
        for key, query in zip(self.key_encoder.parameters(), query_encoder.parameters(), strict=True):
            key.requires_grad_(query.requires_grad)

    def trained(self) -> list[nn.Module]:
        return [self.query_encoder, self.key_encoder]

    def trunks(self) -> list[nn.Module]:
        return [self.query_encoder, self.key_encoder]

    def images(self, batch: Batch) -> list[Tensor]:
        return [batch.query, batch.key]

    def loss(self, outputs: list[Tensor], keys: None, part: slice, batch: Batch, apply: Apply) -> Loss:
        q, slots = (F.normalize(output, dim=1) for output in outputs)  # (n, dim) each
        k = batch.gather_keys(slots)  # (B, dim), with gradients to all ranks
        labels = batch.own_rows().to(q.device, non_blocking=True)
        return info_nce(q @ k.T / self.config.temperature, labels, self.config.temperature)
