"""Presets of jobs/detect.py."""

from __future__ import annotations

from dataclasses import replace

from moco_ray.config import Config
from moco_ray.config.detection import DetectionConfig
from moco_ray.config.eval import EvalConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.config.run import RunConfig
from moco_ray.config.transfer_presets import Presets


def voc_c4() -> Config:
    """Pascal VOC with R50-C4, as in the MoCo papers (arXiv:1911.05722, Sec. 4.2), 16 images a step.

    Command: python jobs/detect.py RUN --data.uri "VOC2007 + VOC2012" --eval.uri VOC2007
    Hardware: 8 GPUs of 16 GB, two images each: BatchNorm over the global batch allows no micro-batches. Expected on VOC07
    test: AP 55.9, AP50 81.5, AP75 62.6 for v1, 57.0, 82.4, 63.6 for v2, 200 epochs each. Not yet run.
    Differs: epochs for steps (in 23 epochs of 16,551 images, 23,792 steps, the papers': 24,000; rates fall at 17,585 and
    21,723 of 18,000 and 22,000); weight decay is on BatchNorm, too; AP is COCO's, over 101 recalls; the published figures
    are over VOC07's 11.
    """
    return Config(
        task="detection",
        preset="voc-c4",
        optim=OptimConfig(
            global_batch_size=16,
            bn_groups=8,
            epochs=23,
            lr=0.32,  # 0.02 in effect
            schedule="milestones",
            milestones=(17, 21),
            warmup_epochs=0.097,  # 100 steps
        ),
        eval=EvalConfig(max_queries=1_000_000),
    )


def voc_fpn() -> Config:
    """Pascal VOC, or a set like it, with a feature pyramid: less memory and time than voc-c4.

    Command: python jobs/detect.py RUN --preset voc-fpn --data.uri "VOC2007 + VOC2012" --eval.uri VOC2007
    Hardware: 4 GPUs of 16 GB. Expected: not published for MoCo on VOC. Not yet run.
    """
    base = voc_c4()
    return replace(base, preset="voc-fpn", detection=DetectionConfig(neck="fpn", proposals=1000))


def detect_small() -> Config:
    """Hundreds of one's own images with boxes, on a CPU: a small ResNet on images of 160 px.

    Command: python jobs/detect.py RUN --preset detect-small --data.uri FOLDER (larger images: --detection.min-px 240
    --detection.test-px 240 --detection.max-px 400)
    Hardware: a CPU and minutes (292 images, 6 epochs from scratch: 3 CPU minutes). Expected: depends on the images.
    """
    return Config(
        task="detection",
        preset="detect-small",
        model=ModelConfig(arch="tiny_resnet"),
        detection=DetectionConfig(
            neck="c4",
            min_px=(160,),
            max_px=280,
            test_px=160,
            anchor_px=(16, 32, 64, 128),
            proposals=100,
            anchors_per_image=64,
            regions_per_image=32,
        ),
        optim=OptimConfig(
            global_batch_size=8,
            bn_groups=4,
            epochs=12,
            lr=0.64,  # 0.02 in effect
            schedule_per="step",
            warmup_epochs=0.5,
        ),
        eval=EvalConfig(max_queries=1_000_000, max_time_fraction=1.0),
        run=RunConfig(log_every_steps=10),
    )


DETECTION_PRESETS: Presets = {"voc-c4": voc_c4, "voc-fpn": voc_fpn, "detect-small": detect_small}
