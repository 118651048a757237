"""MoCo v3: in-batch keys, a predictor and a symmetric loss (Chen et al. 2021, arXiv:2104.02057, Algorithm 1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from moco_ray.config.methods.moco_v3 import MoCoV3Config
from moco_ray.core.batch import Batch
from moco_ray.core.encoders import Encoder, key_encoder_of, momentum_update
from moco_ray.core.heads import bn_mlp
from moco_ray.core.info_nce import Loss, info_nce
from moco_ray.core.method import Encode, Method


class MoCoV3(Method):
    """Query encoder (backbone, projector) with a predictor, and the key encoder without one.

    The backbone is the query module; the heads, whose BatchNorm sees the global batch, take the features of all of a
    rank's images at once. So a backbone without BatchNorm can be cut into micro-batches, exactly.
    """

    is_separable = False
    queries_per_image = 2

    def __init__(self, query_encoder: Encoder, config: MoCoV3Config, hidden_dim: int) -> None:
        super().__init__()
        self.config = config
        self.query_encoder = query_encoder
        self.key_encoder = key_encoder_of(query_encoder)
        dim = query_encoder.dim
        self.predictor = bn_mlp(dim, hidden_dim, dim, num_layers=2, last_bn=config.predictor_last_bn)

    def trained(self) -> list[nn.Module]:
        return [self.query_encoder, self.predictor]

    def query_modules(self) -> list[nn.Module]:
        return [self.query_encoder.backbone, self.query_encoder.backbone]

    def query_images(self, batch: Batch) -> list[Tensor]:
        return [batch.query, batch.key]

    def update_key_encoder(self, progress: float) -> None:
        momentum_update(self.key_encoder, self.query_encoder, self.config.momentum_at(progress))

    def encode_keys(self, batch: Batch, encode: Encode) -> list[Tensor]:
        return [self._key(x, batch, encode) for x in self.query_images(batch)]  # (B, dim) each

    def loss(self, outputs: list[Tensor], keys: list[Tensor], part: slice, batch: Batch, encode: Encode) -> Loss:
        q1, q2 = (self._query(features, encode) for features in outputs)  # (n, dim) each
        k1, k2 = keys
        first, second = self._contrast(q1, k2, batch), self._contrast(q2, k1, batch)
        return Loss(*(a + b for a, b in zip(first, second, strict=True)))

    def metrics(self, progress: float) -> dict[str, float]:
        return {"train/encoder_momentum": self.config.momentum_at(progress)}

    def _key(self, images: Tensor, batch: Batch, encode: Encode) -> Tensor:
        features = encode(self.key_encoder.backbone, images)  # (n, d)
        return batch.gather(F.normalize(encode(self.key_encoder.projector, features), dim=1))

    def _query(self, features: Tensor, encode: Encode) -> Tensor:
        return F.normalize(encode(self.predictor, encode(self.query_encoder.projector, features)), dim=1)

    def _contrast(self, q: Tensor, k: Tensor, batch: Batch) -> Loss:
        """Sum over this rank's q of ctr(q, k): the cross-entropy of q k / tau, its own row the class, times 2 tau."""
        temperature = self.config.temperature
        loss = info_nce((q / temperature) @ k.T, batch.own_rows().to(q.device, non_blocking=True), temperature)
        return loss._replace(total=loss.total * 2 * temperature)
