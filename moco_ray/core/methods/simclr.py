"""SimCLR: one encoder, two views of each image, NT-Xent (Chen et al. 2020, arXiv:2002.05709, Algorithm 1)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco_ray.config.methods.simclr import SimCLRConfig
from moco_ray.core.batch import Batch
from moco_ray.core.encoders import Encoder
from moco_ray.core.info_nce import Loss, info_nce
from moco_ray.core.method import Encode, Method


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

    def query_modules(self) -> list[nn.Module]:
        return [self.query_encoder]

    def query_images(self, batch: Batch) -> list[Tensor]:
        return [torch.cat([batch.query, batch.key])]

    def loss(self, outputs: list[Tensor], keys: None, part: slice, batch: Batch, encode: Encode) -> Loss:
        own = F.normalize(outputs[0], dim=1)  # (2n, dim)
        first, second = own.chunk(2)
        z = torch.cat([batch.gather(first), batch.gather(second)])  # (2B, dim), with gradients to all ranks
        rows = batch.own_rows().to(own.device, non_blocking=True)
        size = batch.global_batch_size
        itself, partner = torch.cat([rows, rows + size]), torch.cat([rows + size, rows])  # (2n,) indices in z
        logits = (own / self.config.temperature @ z.T).scatter(1, itself[:, None], -math.inf)  # (2n, 2B)
        loss = info_nce(logits, partner, self.config.temperature)
        return loss._replace(total=loss.total / 2)  # the paper's mean is over 2B
