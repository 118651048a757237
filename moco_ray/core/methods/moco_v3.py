"""MoCo v3: in-batch keys, a predictor and a symmetric loss (Chen et al. 2021, arXiv:2104.02057, Algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from moco_ray.core.batch import Batch
from moco_ray.core.encoders import Encoder, feature_dim, key_encoder_of, momentum_update
from moco_ray.core.heads import bn_mlp
from moco_ray.core.info_nce import Loss, info_nce
from moco_ray.core.method import Apply, Method, Setting
from moco_ray.core.methods.checks import check_fields


@dataclass(frozen=True, kw_only=True)
class MoCoV3Config:
    """MoCo v3. Defaults are those of a ViT (arXiv:2104.02057, Sec. 4 and 5)."""

    name: ClassVar[str] = "moco-v3"
    batch_norm: ClassVar[Literal["group", "global"]] = "global"
    shuffles_keys: ClassVar[bool] = False

    temperature: float = 0.2
    """Temperature of the softmax (tau): 0.2 for a ViT, 1.0 for a ResNet-50."""
    encoder_momentum: float = 0.99
    """Momentum of the key encoder (m) at the start."""
    momentum_schedule: Literal["cosine", "constant"] = "cosine"
    """Whether the momentum rises to 1 along half a cosine, or stays."""
    predictor_last_bn: bool = True
    """Whether the predictor's output is normalised over the batch: for a ViT, not for a ResNet-50."""

    def check(self, global_batch_size: int) -> None:
        """Check the fields.

        Raises:
            ValueError: They are impossible.
        """
        check_fields(temperature=self.temperature, encoder_momentum=self.encoder_momentum)

    def decide(self, *, num_images: int, global_batch_size: int, has_batch_norm: bool) -> MoCoV3Config:
        """Nothing is automatic."""
        return self

    def warning(self, num_images: int, global_batch_size: int) -> str | None:
        """Say so when there are few negatives."""
        if global_batch_size >= 256 or num_images < 2 * 256:
            return None
        return (
            f"each query has only the other {global_batch_size - 1} images of its batch as negatives; MoCo v3 used 1024 to "
            "6144 (optim.global-batch-size, with run.micro-batch-groups where memory is short)"
        )

    def num_entries(self, num_images: int) -> int:
        """None: the keys are those of the batch."""
        return 0

    def chance_loss(self, global_batch_size: int) -> float:
        """Two losses of 2 tau log(B)."""
        return 4 * self.temperature * math.log(global_batch_size)

    def build(self, query_encoder: Encoder, setting: Setting) -> MoCoV3:
        """Build both encoders and the predictor."""
        hidden = setting.model.hidden_dim or feature_dim(query_encoder.backbone)
        return MoCoV3(query_encoder, self, hidden)

    def momentum_at(self, progress: float) -> float:
        """The key encoder's momentum along half a cosine to 1 (arXiv:2104.02057, Sec. 4.4 and Appendix A)."""
        if self.momentum_schedule == "constant":
            return self.encoder_momentum
        return 1.0 - (1.0 - self.encoder_momentum) * 0.5 * (1.0 + math.cos(math.pi * progress))


class MoCoV3(Method):
    """Query encoder (backbone, projector) with a predictor, and the key encoder without one.

    Images go through the backbone as a trunk; the heads, whose BatchNorm sees the global batch, take the features of
    all of a rank's images at once. So a backbone without BatchNorm can be cut into micro-batches, exactly.
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

    def trunks(self) -> list[nn.Module]:
        return [self.query_encoder.backbone, self.query_encoder.backbone]

    def images(self, batch: Batch) -> list[Tensor]:
        return [batch.query, batch.key]

    def begin(self, progress: float) -> None:
        momentum_update(self.key_encoder, self.query_encoder, self.config.momentum_at(progress))

    def keys(self, batch: Batch, apply: Apply) -> tuple[Tensor, Tensor]:
        k1, k2 = (self._key(x, batch, apply) for x in self.images(batch))
        return k1, k2  # (B, dim) each

    def loss(self, outputs: list[Tensor], keys: tuple[Tensor, Tensor], part: slice, batch: Batch, apply: Apply) -> Loss:
        q1, q2 = (self._query(features, apply) for features in outputs)  # (n, dim) each
        k1, k2 = keys
        first, second = self._contrast(q1, k2, batch), self._contrast(q2, k1, batch)
        return Loss(*(a + b for a, b in zip(first, second, strict=True)))

    def metrics(self, progress: float) -> dict[str, float]:
        return {"train/encoder_momentum": self.config.momentum_at(progress)}

    def _key(self, images: Tensor, batch: Batch, apply: Apply) -> Tensor:
        features = apply(self.key_encoder.backbone, images)
        return batch.gather(F.normalize(apply(self.key_encoder.projector, features), dim=1))

    def _query(self, features: Tensor, apply: Apply) -> Tensor:
        return F.normalize(apply(self.predictor, apply(self.query_encoder.projector, features)), dim=1)

    def _contrast(self, q: Tensor, k: Tensor, batch: Batch) -> Loss:
        """Sum over this rank's q of ctr(q, k): the cross-entropy of q k / tau, its own row the class, times 2 tau."""
        temperature = self.config.temperature
        loss = info_nce(q @ k.T / temperature, batch.own_rows().to(q.device, non_blocking=True), temperature)
        return loss._replace(total=loss.total * 2 * temperature)
