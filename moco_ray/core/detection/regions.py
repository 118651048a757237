"""What looks at each proposed region: torchvision's heads, with losses that add up over ranks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import roi_align

from moco_ray.config.detection import DetectionConfig
from moco_ray.core.detection.sampling import PositionSampler

_REGIONS = 0xA1  # keeps this draw apart from that of anchors
_POSITIVE = 0.25

Sizes = list[tuple[int, int]]
Detections = list[dict[str, Tensor]]


class Regions(RoIHeads):  # type: ignore[misc]
    """Fast R-CNN's heads on proposals, whose losses are sums.

    Their mean over the regions that were drawn in the global batch is Detectron2's and torchvision's loss.

    Attributes:
        beta: As in `Proposals`.
    """

    beta = 0.0
    fg_bg_sampler: PositionSampler

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: Sizes,
        targets: Detections | None = None,
        canvas: tuple[int, int] = (0, 0),
    ) -> tuple[Detections, dict[str, Tensor]]:
        """In training the losses, else the detections (boxes, labels from 1 on, scores) of each image.

        Args:
            features: Maps of the images.
            proposals: (n, 4) of each image.
            image_shapes: Height and width of each.
            targets: Boxes and labels of each; in training only.
            canvas: Height and width of what the maps are of: all images, padded.
        """
        labels: list[Tensor] = []
        wanted: list[Tensor] = []
        if self.training:
            proposals, _, labels, wanted = self.select_training_samples(proposals, targets)
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, [canvas])))
        if self.training:
            return [], self._losses(logits, deltas, torch.cat(labels), torch.cat(wanted))
        boxes, scores, found = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        return [dict(boxes=b, labels=i, scores=s) for b, i, s in zip(boxes, found, scores, strict=True)], {}

    def _losses(self, logits: Tensor, deltas: Tensor, labels: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """Sums over regions: logits (n, classes), deltas (n, 4 classes), labels (n,), wanted (n, 4)."""
        on_objects = torch.where(labels > 0)[0]
        own = deltas.view(len(labels), -1, 4)[on_objects, labels[on_objects]]  # (m, 4) of the right class
        return {
            "loss_classifier": F.cross_entropy(logits, labels, reduction="sum"),
            "loss_box_reg": F.smooth_l1_loss(own, wanted[on_objects], beta=self.beta, reduction="sum"),
        }


def build_regions(
    config: DetectionConfig, pool: nn.Module, head: nn.Module, width: int, num_classes: int, seed: int
) -> Regions:
    """Heads over what a pool cuts out of the maps.

    Args:
        config: Numbers.
        pool: Maps, boxes of each image and [canvas] -> (n, C, h, w).
        head: (n, C, h, w) -> (n, width).
        width: Of the head's output.
        num_classes: Without the background.
        seed: Of the draws.
    """
    regions = Regions(
        pool,
        head,
        _Predictor(width, num_classes + 1),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=config.regions_per_image,
        positive_fraction=_POSITIVE,
        bbox_reg_weights=None,
        score_thresh=config.score_threshold,
        nms_thresh=0.5,
        detections_per_img=config.detections_per_image,
    )
    regions.fg_bg_sampler = PositionSampler(config.regions_per_image, _POSITIVE, seed=seed, key=_REGIONS)
    return regions


class OneMapPool(nn.Module):
    """RoIAlign 14 x 14 of one map, with half a pixel taken off and as many samples as a box needs, as in Detectron2."""

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: Sizes) -> Tensor:
        """Cut boxes out of the one map: (n, C, 14, 14)."""
        (maps,), (canvas,) = features.values(), image_shapes
        return roi_align(maps, boxes, 14, spatial_scale=maps.shape[-1] / canvas[1], sampling_ratio=0, aligned=True)  # type: ignore[no-any-return]


class _Predictor(FastRCNNPredictor):  # type: ignore[misc]
    """torchvision's, with Detectron2's first weights, in the numbers of the weights."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.cls_score.weight.dtype))  # type: ignore[no-any-return]
