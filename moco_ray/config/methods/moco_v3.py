"""MoCo v3 (Chen et al. 2021, arXiv:2104.02057)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from moco_ray.config.method import MethodConfig
from moco_ray.config.methods.floor import info_nce_floor

if TYPE_CHECKING:
    from moco_ray.core.encoders import Encoder
    from moco_ray.core.method import Method, Setting


@dataclass(frozen=True, kw_only=True)
class MoCoV3Config(MethodConfig):
    """MoCo v3. Defaults are those of a ViT (arXiv:2104.02057, Sec. 4 and 5)."""

    name: ClassVar[str] = "moco-v3"
    batch_norm: ClassVar[Literal["group", "global"]] = "global"

    temperature: float = 0.2
    """Temperature of the softmax (tau): 0.2 for a ViT, 1.0 for a ResNet-50."""
    encoder_momentum: float = 0.99
    """Momentum of the key encoder (m) at the start."""
    momentum_schedule: Literal["cosine", "constant"] = "cosine"
    """Whether the momentum rises to 1 along half a cosine, or stays."""
    predictor_last_bn: bool = True
    """Whether the predictor's output is normalised over the batch: for a ViT, not for a ResNet-50."""

    def warning(self, num_images: int, global_batch_size: int) -> str | None:
        """Say so when there are few negatives."""
        if global_batch_size >= 256 or num_images < 2 * 256:
            return None
        return (
            f"each query has only the other {global_batch_size - 1} images of its batch as negatives; MoCo v3 used 1024 to "
            "6144 (optim.global-batch-size, with run.micro-batch-groups where memory is short)"
        )

    def chance_loss(self, global_batch_size: int) -> float:
        """Two losses of 2 tau log(B)."""
        return 4 * self.temperature * math.log(global_batch_size)

    def chance_key(self, global_batch_size: int) -> float:
        """Of B keys."""
        return 100 / global_batch_size

    def floor_loss(self, global_batch_size: int, dim: int) -> float:
        """Two losses of 2 tau times InfoNCE's among B keys."""
        return 4 * self.temperature * info_nce_floor(global_batch_size - 1, self.temperature, dim)

    def build(self, query_encoder: Encoder, setting: Setting) -> Method:
        from moco_ray.core.encoders import feature_dim
        from moco_ray.core.methods.moco_v3 import MoCoV3

        hidden = setting.model.hidden_dim or feature_dim(query_encoder.backbone)
        return MoCoV3(query_encoder, self, hidden)

    def momentum_at(self, progress: float) -> float:
        """The key encoder's momentum along half a cosine to 1 (arXiv:2104.02057, Sec. 4.4 and Appendix A)."""
        if self.momentum_schedule == "constant":
            return self.encoder_momentum
        return 1.0 - (1.0 - self.encoder_momentum) * 0.5 * (1.0 + math.cos(math.pi * progress))
