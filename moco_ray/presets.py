"""Presets: functions that return a configuration. A variant calls its base and changes fields."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from moco_ray.config import Config, from_json
from moco_ray.core.encoders import ModelConfig
from moco_ray.core.moco import MoCoConfig
from moco_ray.core.optim import OptimConfig
from moco_ray.data.views import cifar_views, v1_views, v2_views
from moco_ray.evaluate.monitor import EvalConfig
from moco_ray.train.run_config import RunConfig


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


def cifar10() -> Config:
    """ResNet-18 on CIFAR-10, the asymmetric setting of the reference's demo, 200 epochs.

    Command: python jobs/pretrain.py --preset cifar10 --data.uri cifar10/train --eval.uri cifar10/test
    Hardware: one GPU of 8 GB, about an hour. Expected: kNN 82.6 %. Not yet run.
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
        model=ModelConfig(arch="timm:test_resnet", dim=32),
        method=MoCoConfig(queue_size=128, encoder_momentum=0.99),
        optim=OptimConfig(global_batch_size=16, bn_groups=2, epochs=1, schedule_per="step"),
        eval=EvalConfig(max_queries=64, max_bank=256),
        run=RunConfig(max_steps=4, log_every_steps=1),
    )


PRESETS = {
    "moco-v1": moco_v1,
    "moco-v2": moco_v2,
    "cifar10": cifar10,
    "small": small,
    "smoke": smoke,
}


def load_preset(name: str) -> Config:
    """Make the configuration of a preset, or read that of a run from its config.json.

    Raises:
        ValueError: There is no such preset and no such file.
    """
    if name in PRESETS:
        return PRESETS[name]()
    if name.endswith(".json"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ValueError(f"--preset {name}: there is no such file")
        config = from_json(path.read_text())
        return replace(config, run=replace(config.run, name=None))  # another run, not that one resumed
    close = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.4)
    raise ValueError(
        f"--preset {name!r} is unknown"
        + (f"; did you mean {close[0]}?" if close else ";")
        + f" There are {', '.join(PRESETS)}, or the path of a run's config.json"
    )
