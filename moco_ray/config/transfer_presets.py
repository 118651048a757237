"""Presets of what is trained on labels: protocols of papers, and settings for few images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from moco_ray.config import Config
from moco_ray.config.eval import EvalConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.config.views import ViewsConfig

ALL = 1_000_000_000
"""More images than there are."""


def crops(crop_px: int = 224, crop_min: float = 0.08) -> ViewsConfig:
    """RandomResizedCrop and a flip, and nothing else: what the papers train classifiers on."""
    return ViewsConfig(
        crop_px=crop_px, crop_min=crop_min, jitter_p=0.0, grayscale_p=0.0, blur_p=(0.0, 0.0), solarize_p=(0.0, 0.0)
    )


def linear_v1() -> Config:
    """The linear protocol of MoCo v1 and v2 (arXiv:1911.05722, Sec. 4.1): learning rate 30, 100 epochs.

    Command: python jobs/linear_probe.py RUN --data.uri s3://BUCKET/imagenet
    Hardware: one GPU of 8 GB. Expected on ImageNet: 60.6 % for v1 and 67.5 % for v2 after 200 epochs. Not yet run there.
    """
    return Config(
        task="linear-probe",
        preset="linear-v1",
        views=crops(),
        optim=OptimConfig(
            global_batch_size=256,
            bn_groups=8,
            epochs=100,
            lr=30.0,
            weight_decay=0.0,
            schedule="milestones",
            milestones=(60, 80),
        ),
        eval=EvalConfig(max_queries=ALL),
    )


def linear_v3() -> Config:
    """The linear protocol of MoCo v3's ResNet-50 (arXiv:2104.02057): batch 1024, rate 0.1, cosine, 90 epochs.

    Command: python jobs/linear_probe.py RUN --preset linear-v3 --data.uri s3://BUCKET/imagenet
    Hardware: one GPU of 16 GB. Expected on ImageNet: 68.9 % after 100 epochs, 74.6 % after 1000. Not yet run there.
    """
    base = linear_v1()
    return replace(
        base,
        preset="linear-v3",
        optim=replace(base.optim, global_batch_size=1024, epochs=90, lr=0.1, schedule="cosine"),
    )


def linear_v3_vit() -> Config:
    """The linear protocol of MoCo v3's ViTs (arXiv:2104.02057): as linear-v3 with rate 3.

    Command: python jobs/linear_probe.py RUN --preset linear-v3-vit --data.uri s3://BUCKET/imagenet
    Hardware: one GPU of 16 GB. Expected on ImageNet: 73.2 % for a ViT-S, 76.7 % for a ViT-B. Not yet run there.
    """
    base = linear_v3()
    return replace(base, preset="linear-v3-vit", optim=replace(base.optim, lr=3.0))


def linear_small() -> Config:
    """A linear classifier on hundreds to thousands of one's own images: rate 1, 40 epochs, cosine at every step.

    Command: python jobs/linear_probe.py RUN --preset linear-small --data.uri FOLDER
    Hardware: a CPU and minutes. Expected: depends on the images.
    """
    base = linear_v1()
    return replace(
        base,
        preset="linear-small",
        optim=OptimConfig(global_batch_size=64, bn_groups=4, epochs=40, lr=4.0, weight_decay=0.0, schedule_per="step"),
        eval=EvalConfig(max_queries=ALL, max_time_fraction=1.0),
    )


def finetune() -> Config:
    """Fine-tuning of a ResNet on one's own labelled images: SGD, 50 epochs, cosine at every step.

    Command: python jobs/finetune.py RUN --data.uri FOLDER (without RUN: from scratch)
    Hardware: one GPU of 4 GB, or a CPU and patience. Expected: depends on the images.
    """
    return Config(
        task="finetune",
        preset="finetune",
        views=crops(),
        optim=OptimConfig(
            global_batch_size=64,
            bn_groups=2,
            epochs=50,
            lr=0.1,
            weight_decay=1e-4,
            schedule_per="step",
            warmup_epochs=1,
        ),
        eval=EvalConfig(max_queries=ALL, max_time_fraction=1.0),
    )


def finetune_vit() -> Config:
    """Fine-tuning of a ViT: AdamW, layer-wise decay 0.75 (as BEiT's, arXiv:2106.08254), 50 epochs.

    Command: python jobs/finetune.py RUN --preset finetune-vit --data.uri FOLDER
    Hardware: one GPU of 8 GB. Expected: depends on the images.
    """
    base = finetune()
    return replace(
        base,
        preset="finetune-vit",
        model=ModelConfig(arch="vit_small", train_patches=True),
        optim=OptimConfig(
            global_batch_size=64,
            bn_groups=2,
            epochs=50,
            optimizer="adamw",
            lr=1e-3,
            weight_decay=0.05,
            layer_decay=0.75,
            schedule_per="step",
            warmup_epochs=5,
        ),
    )


def finetune_1_percent() -> Config:
    """Fine-tuning on 1 % of ImageNet's labels, as many of each class, with the rates of SimCLR's (arXiv:2002.05709, B.5).

    Command: python jobs/finetune.py RUN --preset finetune-1-percent --data.uri s3://BUCKET/imagenet
    Hardware: 8 GPUs of 16 GB. Expected: not published for MoCo. Not yet run.
    """
    base = finetune()
    return replace(
        base,
        preset="finetune-1-percent",
        data=replace(base.data, label_fraction=0.01),
        optim=OptimConfig(
            global_batch_size=4096, bn_groups=16, epochs=60, lr=0.05, weight_decay=0.0, schedule_per="step"
        ),
    )


def finetune_10_percent() -> Config:
    """The same on 10 % of the labels, 30 epochs.

    Command: python jobs/finetune.py RUN --preset finetune-10-percent --data.uri s3://BUCKET/imagenet
    Hardware: 8 GPUs of 16 GB. Expected: not published for MoCo. Not yet run.
    """
    base = finetune_1_percent()
    return replace(
        base,
        preset="finetune-10-percent",
        data=replace(base.data, label_fraction=0.1),
        optim=replace(base.optim, epochs=30),
    )


def evaluate() -> Config:
    """All images of an encoder's data set, or of another: kNN where there are labels, and measures that need none.

    Command: python jobs/evaluate.py RUN --data.uri s3://BUCKET/imagenet
    Hardware: any; every GPU of the cluster. Expected: depends on encoder and images; --baselines says what is little.
    """
    return Config(task="evaluate", preset="evaluate", eval=EvalConfig(max_queries=ALL, max_bank=ALL))


def embed() -> Config:
    """Features of all images of an encoder's data set, or of another.

    Command: python jobs/embed.py RUN --data.uri s3://BUCKET/images --output s3://BUCKET/vectors
    Hardware: any; every GPU of the cluster. Expected: one vector for each image.
    """
    return Config(task="embed", preset="embed")


Presets = Mapping[str, Callable[[], Config]]

LINEAR_PRESETS: Presets = {
    "linear-v1": linear_v1,
    "linear-v3": linear_v3,
    "linear-v3-vit": linear_v3_vit,
    "linear-small": linear_small,
}
FINETUNE_PRESETS: Presets = {
    "finetune": finetune,
    "finetune-vit": finetune_vit,
    "finetune-1-percent": finetune_1_percent,
    "finetune-10-percent": finetune_10_percent,
}
EVALUATE_PRESETS: Presets = {"evaluate": evaluate}
EMBED_PRESETS: Presets = {"embed": embed}
