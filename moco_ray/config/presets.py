"""Presets: functions that return a configuration. A variant calls its base and changes fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from moco_ray.config import Config
from moco_ray.config.eval import EvalConfig
from moco_ray.config.methods.end_to_end import EndToEndConfig
from moco_ray.config.methods.memory_bank import MemoryBankConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.methods.moco_v3 import MoCoV3Config
from moco_ray.config.methods.simclr import SimCLRConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.config.run import RunConfig
from moco_ray.config.views import cifar_views, simclr_views, v1_views, v2_views, v3_views


def moco_v2() -> Config:
    """MoCo v2 on ImageNet (arXiv:2003.04297), 200 epochs.

    Command: python jobs/pretrain.py --preset moco-v2 --data.uri s3://BUCKET/imagenet/train
    Hardware: 8 GPUs of 16 GB (the reference: 53 h on 8 V100). Expected: 67.5 % linear top-1. Not yet run.
    """
    return Config(preset="moco-v2", views=v2_views())


def moco_v1() -> Config:
    """MoCo v1 on ImageNet (arXiv:1911.05722), 200 epochs.

    Command: python jobs/pretrain.py --preset moco-v1 --data.uri s3://BUCKET/imagenet/train
    Hardware: 8 GPUs of 16 GB. Expected: 60.6 % linear top-1. Not yet run.
    """
    base = moco_v2()
    return replace(
        base,
        preset="moco-v1",
        views=v1_views(),
        model=replace(base.model, projector="linear"),
        method=replace(base.method, temperature=0.07),
        optim=replace(base.optim, schedule="milestones"),
    )


def moco_v3_resnet50() -> Config:
    """MoCo v3 with a ResNet-50 on ImageNet (arXiv:2104.02057), 100 epochs; for 300 epochs the rate is 0.3.

    Command: python jobs/pretrain.py --preset moco-v3-resnet50 --data.uri s3://BUCKET/imagenet/train
    Hardware: 8 GPUs of 80 GB or 16 of 32 GB, estimated: BatchNorm over the global batch needs all images of a worker at once.
    Expected: 68.9 % linear top-1. Not yet run.
    """
    return Config(
        preset="moco-v3-resnet50",
        views=v3_views(),
        model=ModelConfig(zero_init_residual=True, projector="mlp-bn", projector_layers=2, hidden_dim=4096, dim=256),
        method=MoCoV3Config(temperature=1.0, predictor_last_bn=False),
        optim=OptimConfig(
            global_batch_size=4096,
            bn_groups=16,
            epochs=100,
            optimizer="lars",
            lr=0.6,
            weight_decay=1e-6,
            schedule_per="step",
            warmup_epochs=10,
        ),
    )


def moco_v3_resnet50_1000ep() -> Config:
    """MoCo v3 with a ResNet-50 on ImageNet (arXiv:2104.02057), 1000 epochs: another rate, decay and momentum.

    Command: python jobs/pretrain.py --preset moco-v3-resnet50-1000ep --data.uri s3://BUCKET/imagenet/train
    Hardware: as for moco-v3-resnet50. Expected: 74.6 % linear top-1. Not yet run.
    """
    base = moco_v3_resnet50()
    return replace(
        base,
        preset="moco-v3-resnet50-1000ep",
        method=MoCoV3Config(temperature=1.0, predictor_last_bn=False, encoder_momentum=0.996),
        optim=replace(base.optim, epochs=1000, lr=0.3, weight_decay=1.5e-6),
    )


def moco_v3_vit_small() -> Config:
    """MoCo v3 with a ViT-S/16 on ImageNet (arXiv:2104.02057), 300 epochs.

    Command: python jobs/pretrain.py --preset moco-v3-vit-small --data.uri s3://BUCKET/imagenet/train
    Hardware: 8 GPUs of 32 GB; on fewer or smaller ones the same batch in micro-batches. Expected: 73.2 % linear top-1.
    Not yet run.
    """
    base = moco_v3_resnet50()
    return replace(
        base,
        preset="moco-v3-vit-small",
        views=v3_views(crop_min=0.08),
        model=ModelConfig(arch="vit_small", projector="mlp-bn", projector_layers=3, hidden_dim=4096, dim=256),
        method=MoCoV3Config(temperature=0.2, predictor_last_bn=True),
        optim=replace(base.optim, epochs=300, optimizer="adamw", lr=1.5e-4, weight_decay=0.1, warmup_epochs=40),
    )


def moco_v3_vit_base() -> Config:
    """MoCo v3 with a ViT-B/16 on ImageNet (arXiv:2104.02057), 300 epochs.

    Command: python jobs/pretrain.py --preset moco-v3-vit-base --data.uri s3://BUCKET/imagenet/train
    Hardware: 16 GPUs of 32 GB. Expected: 76.7 % linear top-1. Not yet run.
    """
    base = moco_v3_vit_small()
    return replace(base, preset="moco-v3-vit-base", model=replace(base.model, arch="vit_base"))


def moco_v3_vit_mini() -> Config:
    """MoCo v3 with a small ViT on images of 32 to 64 px, of which there are tens of thousands.

    Command: python jobs/pretrain.py --preset moco-v3-vit-mini --data.uri cifar10/train --eval.uri cifar10/test
    Hardware: one GPU of 8 GB. Expected: depends on the images; watch eval/knn_top1. Not yet run to its end.
    """
    base = moco_v3_vit_small()
    return replace(
        base,
        preset="moco-v3-vit-mini",
        views=v3_views(crop_px=32, crop_min=0.08),
        model=replace(base.model, arch="vit_mini", patch_px=4, hidden_dim=1024),
        optim=replace(base.optim, global_batch_size=512, bn_groups=8, lr=5e-4),
    )


def end_to_end() -> Config:
    """The end-to-end dictionary of the v1 paper on ImageNet (arXiv:1911.05722, Sec. 3.2 and Fig. 3), 200 epochs.

    Command: python jobs/pretrain.py --preset end-to-end --data.uri s3://BUCKET/imagenet/train
    Hardware: 8 GPUs of 32 GB: a dictionary of 1024 keys is a batch of 1024 images. Expected: what MoCo reaches with
    a queue of as many keys (Fig. 3). Not yet run.
    """
    base = moco_v1()
    return replace(
        base, preset="end-to-end", method=EndToEndConfig(), optim=replace(base.optim, global_batch_size=1024)
    )


def memory_bank() -> Config:
    """The memory bank of the v1 paper on ImageNet (arXiv:1911.05722, Sec. 3.2 and Fig. 3), 200 epochs.

    Command: python jobs/pretrain.py --preset memory-bank --data.uri s3://BUCKET/imagenet/train
    Hardware: 8 GPUs of 16 GB. Expected: 58.0 % linear top-1 (2.6 points below MoCo v1, Sec. 4.1). Not yet run.
    """
    return replace(moco_v1(), preset="memory-bank", method=MemoryBankConfig(num_negatives=65536))


def simclr() -> Config:
    """SimCLR on ImageNet (arXiv:2002.05709), 100 epochs.

    Command: python jobs/pretrain.py --preset simclr --data.uri s3://BUCKET/imagenet/train
    Hardware: 8 GPUs of 80 GB or 16 of 32 GB, estimated: BatchNorm over the global batch needs all images of a worker at once.
    Expected: between the 61.9 % of a batch of 256 and the 66.6 % of 8192 after 200 epochs (arXiv:2003.04297, Table 2). Not yet
    run.
    """
    return Config(
        preset="simclr",
        views=simclr_views(),
        method=SimCLRConfig(),
        optim=OptimConfig(
            global_batch_size=4096,
            bn_groups=16,
            epochs=100,
            optimizer="lars",
            lr=0.3,
            weight_decay=1e-6,
            schedule_per="step",
            warmup_epochs=10,
        ),
    )


def cifar10() -> Config:
    """ResNet-18 on CIFAR-10, the asymmetric setting of the reference's demo, 200 epochs.

    Command: python jobs/pretrain.py --preset cifar10 --data.uri cifar10/train --eval.uri cifar10/test
    Hardware: one GPU of 8 GB, about an hour. Expected: kNN about 82.6 %, which the demo measures on the projector's outputs
    and a run on the backbone's features. Not yet run.
    """
    return Config(
        preset="cifar10",
        views=cifar_views(),
        model=ModelConfig(arch="resnet18", stem="cifar", projector="linear"),
        method=MoCoConfig(queue_size=4096, temperature=0.1, encoder_momentum=0.99),
        optim=OptimConfig(global_batch_size=512, bn_groups=8, lr=0.03, weight_decay=5e-4, epochs=200),
        eval=EvalConfig(max_queries=10_000, max_bank=50_000),
    )


def small() -> Config:
    """Hundreds to thousands of one's own images on one small GPU or a CPU: a queue of half the images.

    Command: python jobs/pretrain.py --preset small --data.uri FOLDER
    Hardware: one GPU of 4 GB, or a CPU and patience. Expected: depends on the images; watch eval/knn_top1.
    """
    return Config(
        preset="small",
        views=v2_views(crop_px=96),
        model=ModelConfig(arch="resnet18"),
        method=MoCoConfig(queue_size=None, encoder_momentum=0.99),
        optim=OptimConfig(global_batch_size=128, bn_groups=4, lr=0.06, epochs=100, schedule_per="step"),
    )


def smoke() -> Config:
    """Whether everything works: a few steps on small images, nothing learned.

    Command: python jobs/pretrain.py --preset smoke --data.uri FOLDER
    Hardware: anything, seconds. Expected: a finished run.
    """
    return Config(
        preset="smoke",
        views=v2_views(crop_px=32),
        model=ModelConfig(arch="tiny_resnet", dim=32),
        method=MoCoConfig(queue_size=128, encoder_momentum=0.99),
        optim=OptimConfig(global_batch_size=16, bn_groups=2, epochs=1, schedule_per="step"),
        eval=EvalConfig(max_queries=64, max_bank=256),
        run=RunConfig(max_steps=4, log_every_steps=1),
    )


PRESETS = {
    "moco-v1": moco_v1,
    "moco-v2": moco_v2,
    "moco-v3-resnet50": moco_v3_resnet50,
    "moco-v3-resnet50-1000ep": moco_v3_resnet50_1000ep,
    "moco-v3-vit-small": moco_v3_vit_small,
    "moco-v3-vit-base": moco_v3_vit_base,
    "moco-v3-vit-mini": moco_v3_vit_mini,
    "end-to-end": end_to_end,
    "memory-bank": memory_bank,
    "simclr": simclr,
    "cifar10": cifar10,
    "small": small,
    "smoke": smoke,
}


def preset_list(presets: Mapping[str, Callable[[], Config]] = PRESETS) -> str:
    """The presets, one a line, with what each is for."""
    width = max(map(len, presets))
    lines = [f"  {name:{width}}  {(make.__doc__ or '').splitlines()[0]}" for name, make in presets.items()]
    return "\n".join(["Presets (--preset NAME, or --preset and the path of a run's config.json):", *lines])
