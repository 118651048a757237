"""Supervised learning of labels as a method: a backbone and a linear head, whose steps are those of all methods."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco_ray.core.batch import Batch
from moco_ray.core.encoders import Encoder, feature_dim
from moco_ray.core.info_nce import Loss
from moco_ray.core.method import Encode, Method

_HEAD_STD = 0.01


class FrozenBackbone(Encoder):
    """A backbone in evaluation mode, which never learns, and a head that does."""

    def __init__(self, backbone: nn.Module, projector: nn.Module, dim: int) -> None:
        super().__init__(backbone, projector, dim)
        backbone.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Change the mode of the head alone: statistics of BatchNorm stay what they are, and nothing is dropped."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, classes), with gradients for the head alone."""
        with torch.no_grad():
            features = self.backbone(images)
        logits: Tensor = self.projector(features)
        return logits


class LinearHead(nn.Linear):
    """Computes in the numbers of its weights, also under autocast: logits in bfloat16 would tie."""

    def forward(self, input: Tensor) -> Tensor:
        """Map features (N, d) to logits (N, outputs)."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


def with_head(backbone: nn.Module, num_outputs: int, *, is_frozen: bool) -> Encoder:
    """A backbone with a linear classifier in the projector's place.

    Args:
        backbone: Images (N, 3, H, W) -> features (N, d).
        num_outputs: Classes, or labels that an image may have at once.
        is_frozen: Whether the head alone learns, as in the linear protocol of arXiv:1911.05722, Sec. 4.1.
    """
    head = LinearHead(feature_dim(backbone), num_outputs)
    nn.init.normal_(head.weight, std=_HEAD_STD)
    nn.init.zeros_(head.bias)
    return (FrozenBackbone if is_frozen else Encoder)(backbone, head, num_outputs)


class Classifier(Method):
    """Learns classes by cross-entropy, or several labels an image by binary cross-entropy over those that are known."""

    def __init__(self, query_encoder: Encoder, *, has_targets: bool = False) -> None:
        super().__init__()
        self.query_encoder = query_encoder
        self.has_targets = has_targets

    def trained(self) -> list[nn.Module]:
        """The backbone, unless it is frozen, and the head."""
        return [self.query_encoder]

    def query_modules(self) -> list[nn.Module]:
        """The same."""
        return [self.query_encoder]

    def query_images(self, batch: Batch) -> list[Tensor]:
        """One view of each image."""
        return [batch.query]

    def loss(self, outputs: list[Tensor], keys: None, part: slice, batch: Batch, encode: Encode) -> Loss:
        """Cross-entropy of logits (n, classes); beside it how many are right, and the probability of what is true."""
        logits = outputs[0]
        if self.has_targets:
            return _binary(logits, batch.arrays["targets"][part].to(logits.dtype))
        labels = batch.arrays["label"][part]
        chances = logits.detach().softmax(dim=1).gather(1, labels[:, None])  # (n, 1)
        return Loss(
            total=F.cross_entropy(logits, labels, reduction="sum"),
            num_correct=(logits.detach().argmax(dim=1) == labels).sum(),
            cosine=chances.sum(),
        )

    def means(self, images: int) -> dict[str, tuple[float, int]]:
        """Loss, accuracy in percent, and the mean probability that is given to what is true."""
        return {
            "train/loss": (1.0, images),
            "train/accuracy": (100.0, images),
            "train/true_probability": (1.0, images),
        }


def _binary(logits: Tensor, targets: Tensor) -> Loss:
    """Of each image the means over its labels that are known, (n, labels) each; NaN is not known."""
    is_known = ~targets.isnan()
    truth = targets.nan_to_num()
    share = is_known / is_known.sum(dim=1, keepdim=True).clamp(min=1)  # (n, labels), 1 in all for an image
    losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    chances = logits.detach().sigmoid()
    return Loss(
        total=(losses * share).sum(),
        num_correct=(((chances > 0.5) == (truth > 0.5)) * share).sum(),
        cosine=((truth * chances + (1 - truth) * (1 - chances)) * share).sum(),
    )
