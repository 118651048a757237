"""Faster R-CNN on a ResNet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from moco_ray.config.detection import DetectionConfig
from moco_ray.config.model import ModelConfig
from moco_ray.core.detection.proposals import Proposals, build_proposals
from moco_ray.core.detection.regions import Detections, OneMapPool, Regions, Sizes, build_regions
from moco_ray.core.encoders import build_backbone
from moco_ray.core.global_batch_norm import check_batch_norms, use_global_batch_norm

_FPN_CHANNELS, _MLP_CHANNELS, _FPN_POOL_PX = 256, 1024, 7
_STAGES = ("layer1", "layer2", "layer3", "layer4")


class Detector(nn.Module):
    """Faster R-CNN whose losses add up over ranks, and whose BatchNorms see the global batch.

    Attributes:
        backbone: Images (N, 3, H, W) -> maps by name.
        rpn: Maps -> proposals.
        roi_heads: Proposals -> classes and boxes.
    """

    def __init__(self, backbone: nn.Module, rpn: Proposals, roi_heads: Regions) -> None:
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = backbone, rpn, roi_heads

    def forward(
        self,
        images: Tensor,
        sizes: Sizes,
        targets: Detections | None = None,
        positions: NDArray[np.int64] | None = None,
    ) -> tuple[Tensor, Tensor] | Detections:
        """Losses in training, detections else. In training all ranks must call.

        Args:
            images: (N, 3, H, W), standardised, each in the upper left corner of zeros; H and W are multiples of 32, and the
                same on all ranks.
            sizes: Height and width of each image.
            targets: Of each image boxes (n, 4) in x1, y1, x2, y2 and labels (n,) from 1 on; in training only.
            positions: (N,) of the images in the run; in training only.

        Returns:
            In training (4,) sums of the losses of objectness, proposals, classes and boxes, and (2,) how many anchors and
            regions they are over: the first two divided by the anchors of all ranks, the others by their regions, are the
            losses of the global batch. Else boxes, labels and scores of each image.
        """
        if self.training:
            assert positions is not None
            self.rpn.fg_bg_sampler.positions = self.roi_heads.fg_bg_sampler.positions = positions
        canvas = (images.shape[-2], images.shape[-1])
        full = self.rpn.head.cls_logits.weight.dtype  # anchors take that of the maps, and bfloat16 would not do
        maps = {name: features.to(full) for name, features in self.backbone(images).items()}
        proposals, rpn_losses = self.rpn(ImageList(images, sizes), maps, targets)
        proposals = [_never_none(boxes, size) for boxes, size in zip(proposals, sizes, strict=True)]
        detections, losses = self.roi_heads(maps, proposals, sizes, targets, canvas)
        if not self.training:
            return cast(Detections, detections)
        counts = [self.rpn.fg_bg_sampler.num_drawn, self.roi_heads.fg_bg_sampler.num_drawn]
        return torch.stack([*rpn_losses.values(), *losses.values()]), torch.tensor(counts, device=images.device)


def build_detector(
    config: DetectionConfig,
    model: ModelConfig,
    num_classes: int,
    *,
    seed: int = 0,
    weights: Mapping[str, Tensor] | None = None,
) -> Detector:
    """Build a detector; weights that are not given come from torch's global generator.

    Every layer is trained, every BatchNorm is synchronised, and what is new has BatchNorm, too (arXiv:1911.05722, Sec. 4.2,
    "Normalization"): "c4" after the ResNet's last stage, "fpn" in the pyramid.
    Differs: RoIAlign of "fpn" is torchvision's, without Detectron2's half pixel.

    Args:
        config: What is detected, and how.
        model: The ResNet.
        num_classes: Without the background.
        seed: Of the draws of anchors and regions.
        weights: State dict of the backbone.

    Raises:
        ValueError: The network has no stages as a ResNet has.
    """
    resnet = build_backbone(model)
    if weights is not None:
        resnet.load_state_dict(weights)
    stages = [stage for name, stage in resnet.named_children() if name in _STAGES]
    if len(stages) < len(_STAGES):
        raise ValueError(
            f"model.arch {model.arch} has no stages layer1 to layer4, which a detector stands on; use a ResNet, such as resnet50"
        )
    widths = [_width(stage) for stage in stages]
    backbone: nn.Module
    if config.neck == "c4":
        backbone = IntermediateLayerGetter(resnet, {"layer3": "0"})
        rpn = build_proposals(config, widths[2], seed)
        head = nn.Sequential(
            OrderedDict(
                layer4=stages[3], norm=nn.BatchNorm2d(widths[3]), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()
            )
        )
        regions = build_regions(config, OneMapPool(), head, widths[3], num_classes, seed)
    else:
        backbone = BackboneWithFPN(
            resnet,
            {stage: str(i) for i, stage in enumerate(_STAGES)},
            widths,
            _FPN_CHANNELS,
            norm_layer=nn.BatchNorm2d,
        )
        rpn = build_proposals(config, _FPN_CHANNELS, seed)
        pool = MultiScaleRoIAlign([str(i) for i in range(len(_STAGES))], _FPN_POOL_PX, sampling_ratio=2)
        head = TwoMLPHead(_FPN_CHANNELS * _FPN_POOL_PX**2, _MLP_CHANNELS)
        regions = build_regions(config, pool, head, _MLP_CHANNELS, num_classes, seed)
    detector = Detector(backbone, rpn, regions)
    use_global_batch_norm(detector)
    check_batch_norms(detector, f"model.arch {model.arch}")
    return detector


def _width(stage: nn.Module) -> int:
    """Channels of a stage's maps."""
    block = list(stage.children())[-1]
    own = [m for name, m in block.named_modules() if isinstance(m, nn.Conv2d) and "downsample" not in name]
    return own[-1].out_channels


def _never_none(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Proposals (n, 4) of an image; the image itself where all were empty: BatchNorm over no region has no statistics."""
    return boxes if len(boxes) else boxes.new_tensor([[0, 0, size[1], size[0]]])
