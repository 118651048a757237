"""MoCo v1 and v2: two encoders, a queue, InfoNCE (He et al. 2020, arXiv:1911.05722; Chen et al. 2020, arXiv:2003.04297)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.core.batch import Batch
from moco_ray.core.encoders import Encoder, key_encoder_of, momentum_update
from moco_ray.core.info_nce import Loss, info_nce_of_negatives
from moco_ray.core.method import Encode, Method
from moco_ray.core.queue import Queue


class _Keys(NamedTuple):
    enqueued: Tensor
    """(B, dim), or (2B, dim) where symmetric: all keys of the batch, the same on all ranks."""
    own: Tensor
    """(n, dim), or (2n, dim): the keys of this rank's queries."""


class MoCo(Method):
    """All that training changes, but for the optimizer: query encoder, key encoder and queue.

    A step is Algorithm 1 of arXiv:1911.05722: `core/step.py` calls these parts in turn.
    Differs: where symmetric, the second queries go through their encoder in the shuffled BatchNorm groups of their
    views and their keys in the groups of the first queries, so that no image needs to be shuffled once more.
    """

    def __init__(self, query_encoder: Encoder, config: MoCoConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.query_encoder = query_encoder
        self.key_encoder = key_encoder_of(query_encoder)
        assert config.queue_size is not None, "sized from the data before the model is built"
        self.queue = Queue(config.queue_size, query_encoder.dim, generator)
        self.queries_per_image = 1 + config.symmetric

    def trained(self) -> list[nn.Module]:
        return [self.query_encoder]

    def query_modules(self) -> list[nn.Module]:
        return [self.query_encoder]

    def update_key_encoder(self, progress: float) -> None:
        momentum_update(self.key_encoder, self.query_encoder, self.config.encoder_momentum)

    def encode_keys(self, batch: Batch, encode: Encode) -> _Keys:
        k = batch.unshuffle(F.normalize(encode(self.key_encoder, batch.key), dim=1))  # (B, dim)
        own = k[batch.own_rows().to(k.device, non_blocking=True)]  # (n, dim)
        if not self.config.symmetric:
            return _Keys(k, own)
        k2 = batch.gather(F.normalize(encode(self.key_encoder, batch.query), dim=1))  # (B, dim)
        own2 = k2[batch.shuffled_rows().to(k.device, non_blocking=True)]  # (n, dim): of the rows in this rank's slots
        return _Keys(torch.cat([k, k2]), torch.cat([own, own2]))

    def query_images(self, batch: Batch) -> list[Tensor]:
        return [torch.cat([batch.query, batch.key]) if self.config.symmetric else batch.query]

    def loss(self, outputs: list[Tensor], keys: _Keys, part: slice, batch: Batch, encode: Encode) -> Loss:
        q = F.normalize(outputs[0], dim=1)  # (n, dim)
        return info_nce_of_negatives(q, keys.own[part], self.queue.keys, self.config.temperature)

    def probe_loss(self, outputs: list[Tensor]) -> Tensor:
        q = F.normalize(outputs[0], dim=1)
        return info_nce_of_negatives(q, torch.zeros_like(q), self.queue.keys, self.config.temperature).total

    def update_dictionary(self, batch: Batch, keys: _Keys, outputs: list[Tensor]) -> None:
        self.queue.enqueue(keys.enqueued)

    def metrics(self, progress: float) -> dict[str, float]:
        return {"train/encoder_momentum": self.config.encoder_momentum, "train/queue_fill": self.queue.fill}
