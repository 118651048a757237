"""The end-to-end dictionary that MoCo is compared with: in-batch keys, gradients to both encoders.

He et al. 2020, arXiv:1911.05722, Sec. 3.2 ("Relations to previous mechanisms") and Fig. 2a.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from moco_ray.config.methods.end_to_end import EndToEndConfig
from moco_ray.core.batch import Batch
from moco_ray.core.encoders import Encoder, key_encoder_of
from moco_ray.core.info_nce import Loss, info_nce
from moco_ray.core.method import Encode, Method


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

    def query_modules(self) -> list[nn.Module]:
        return [self.query_encoder, self.key_encoder]

    def query_images(self, batch: Batch) -> list[Tensor]:
        return [batch.query, batch.key]

    def loss(self, outputs: list[Tensor], keys: None, part: slice, batch: Batch, encode: Encode) -> Loss:
        q, slots = (F.normalize(output, dim=1) for output in outputs)  # (n, dim) each
        k = batch.unshuffle(slots)  # (B, dim), with gradients to all ranks
        labels = batch.own_rows().to(q.device, non_blocking=True)
        return info_nce(q / self.config.temperature @ k.T, labels, self.config.temperature)
