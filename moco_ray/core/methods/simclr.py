"""SimCLR: one encoder, two views of each image, NT-Xent (Chen et al. 2020, arXiv:2002.05709, Algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco_ray.core.batch import Batch
from moco_ray.core.encoders import Encoder
from moco_ray.core.info_nce import Loss, info_nce
from moco_ray.core.method import Apply, Method, Setting
from moco_ray.core.methods.checks import check_fields


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
        return SimCLR(query_encoder, self)


class SimCLR(Method):
    """One encoder. Both views of all images go through it as one batch, which BatchNorm sees as a whole (Sec. 2.2)."""

    is_separable = False
    queries_per_image = 2

    def __init__(self, query_encoder: Encoder, config: SimCLRConfig) -> None:
        super().__init__()
        self.config = config
        self.query_encoder = query_encoder

    def trained(self) -> list[nn.Module]:
        return [self.query_encoder]

    def trunks(self) -> list[nn.Module]:
        return [self.query_encoder]

    def images(self, batch: Batch) -> list[Tensor]:
        return [torch.cat([batch.query, batch.key])]

    def loss(self, outputs: list[Tensor], keys: None, part: slice, batch: Batch, apply: Apply) -> Loss:
        own = F.normalize(outputs[0], dim=1)  # (2n, dim)
        first, second = own.chunk(2)
        z = torch.cat([batch.gather(first), batch.gather(second)])  # (2B, dim), with gradients to all ranks
        rows = batch.own_rows().to(own.device, non_blocking=True)
        size = batch.global_batch_size
        itself, partner = torch.cat([rows, rows + size]), torch.cat([rows + size, rows])  # (2n,) indices in z
        logits = (own @ z.T / self.config.temperature).scatter(1, itself[:, None], -math.inf)  # (2n, 2B)
        loss = info_nce(logits, partner, self.config.temperature)
        return loss._replace(total=loss.total / 2)  # the paper's mean is over 2B
