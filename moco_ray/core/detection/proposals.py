"""The region proposal network: torchvision's, with losses that add up over ranks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from moco_ray.config.detection import DetectionConfig
from moco_ray.core.detection.sampling import PositionSampler

_ANCHORS = 0xA0  # keeps this draw apart from that of regions


class Proposals(RegionProposalNetwork):  # type: ignore[misc]
    """Faster R-CNN's region proposal network (Ren et al. 2015, arXiv:1506.01497), whose losses are sums.

    Their mean over the anchors that were drawn in the global batch is torchvision's loss, and Detectron2's where all images
    have anchors enough.

    Attributes:
        beta: Where the loss of boxes turns from squares to absolute values; 0, as in Detectron2: nowhere. torchvision: 1/9.
    """

    beta = 0.0
    fg_bg_sampler: PositionSampler

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Sums of the losses of objectness and boxes over the anchors that are drawn of this rank's images."""
        positive, negative = (torch.cat(masks) for masks in self.fg_bg_sampler(labels))
        drawn, logits = positive | negative, objectness.flatten()
        boxes = F.smooth_l1_loss(
            pred_bbox_deltas[positive], torch.cat(regression_targets)[positive], beta=self.beta, reduction="sum"
        )
        is_object = torch.cat(labels)[drawn].to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits[drawn], is_object, reduction="sum"), boxes


def build_proposals(config: DetectionConfig, in_channels: int, seed: int) -> Proposals:
    """The network for maps of so many channels; weights come from torch's global generator."""
    is_c4 = config.neck == "c4"
    sizes = (config.anchor_px,) if is_c4 else tuple((size,) for size in config.anchor_px)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    num, half = config.proposals, max(1, config.proposals // 2)
    network = Proposals(
        anchors,
        _Head(in_channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=config.anchors_per_image,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 6 * num, "testing": 6 * half} if is_c4 else {"training": 2 * num, "testing": num},
        post_nms_top_n={"training": num, "testing": half if is_c4 else num},
        nms_thresh=0.7,
    )
    network.fg_bg_sampler = PositionSampler(config.anchors_per_image, 0.5, seed=seed, key=_ANCHORS)
    return network


class _Head(RPNHead):  # type: ignore[misc]
    """torchvision's, whose last layers compute in the numbers of the weights: scores in bfloat16 would tie."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [self.conv(features) for features in x]
        with torch.autocast(x[0].device.type, enabled=False):
            hidden = [features.to(self.cls_logits.weight.dtype) for features in hidden]
            return [self.cls_logits(features) for features in hidden], [self.bbox_pred(features) for features in hidden]
