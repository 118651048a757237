"""What the parts of a configuration must agree on."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from moco_ray.config.model import VITS
from moco_ray.config.run import data_label, worker_resources

if TYPE_CHECKING:
    from moco_ray.config.config import Config

_ENDLESS = ("checkpoint_every_s", "resize_every_s")  # never, but for other reasons


def check_workers(config: Config) -> None:
    """Check the numbers of workers.

    Raises:
        ValueError: They contradict each other or the batch.
    """
    run, groups = config.run, config.optim.bn_groups
    numbers = {"num-workers": run.num_workers, "min-workers": run.min_workers, "max-workers": run.max_workers}
    for name, number in numbers.items():
        if config.trains and number is not None and number > groups:
            raise ValueError(
                f"run.{name} {number} is more than the {groups} BatchNorm groups of the batch (optim.bn-groups); "
                f"use {groups} workers or fewer"
            )
        if number is not None and number < (name != "num-workers"):
            raise ValueError(f"run.{name} is {number}; use {'0 (no Ray)' if name == 'num-workers' else '1'} or more")
    if run.num_workers is not None and (run.min_workers is not None or run.max_workers is not None):
        raise ValueError(
            f"run.num-workers {run.num_workers} is a fixed number and goes with neither run.min-workers nor "
            "run.max-workers; drop one or the others"
        )
    if run.min_workers is not None and run.max_workers is not None and run.min_workers > run.max_workers:
        raise ValueError(
            f"run.min-workers {run.min_workers} is more than run.max-workers {run.max_workers}; swap them, or use one number"
        )
    worker_resources(run)
    data_label(run)


def check_data(config: Config) -> None:
    """Check which images are asked for.

    Raises:
        ValueError: A share is impossible, or there are too few classes.
    """
    data = config.data
    if not 0 < data.label_fraction <= 1:
        raise ValueError(f"data.label-fraction is {data.label_fraction}; use a share in (0, 1], such as 0.01")
    for name, given in (("classes", data.classes), ("target-columns", data.target_columns)):
        if given is not None and len(set(given)) < len(given):
            raise ValueError(f"data.{name} names one twice: {', '.join(given)}")
    if data.classes is not None and len(data.classes) < 2 and config.task != "detection":
        raise ValueError(f"data.classes is {', '.join(data.classes)}; name two or more, as A,B")
    if data.classes is not None and data.target_columns is not None:
        raise ValueError("data.classes and data.target-columns are two kinds of labels; drop one of them")


def check_batch(config: Config) -> None:
    """Check what must divide what.

    Raises:
        ValueError: Batch, groups, crops, patches or the method contradict each other.
    """
    optim, method = config.optim, config.method
    size, groups = optim.global_batch_size, optim.bn_groups
    if groups < 1:
        raise ValueError(f"optim.bn-groups is {groups}; use 1 or more")
    is_grouped = config.batch_norm == "group"
    fewest = 2 * groups if is_grouped else max(2, groups)
    if size < fewest:
        fewer = f", or {size // 2} groups or fewer" if is_grouped and size >= 2 else ""
        raise ValueError(
            f"optim.global-batch-size {size} is too small for the {groups} BatchNorm groups of optim.bn-groups"
            f"{', which need 2 images each' if is_grouped else ''}; use a batch of {fewest} or more{fewer}"
        )
    if size % groups:
        raise ValueError(
            f"optim.global-batch-size {size} is not a multiple of optim.bn-groups "
            f"{groups}; use a batch of {groups * max(2, round(size / groups))}, or a number of groups that divides the batch"
        )
    if config.task == "pretraining":
        method.check(size)
    if config.model.arch in VITS and config.views.crop_px % config.model.patch_px:
        raise ValueError(
            f"views.crop-px {config.views.crop_px} is not a multiple of model.patch-px {config.model.patch_px}; use "
            f"crops of {max(1, config.views.crop_px // config.model.patch_px) * config.model.patch_px} or other patches"
        )


def check_numbers(config: Config) -> None:
    """Check numbers one by one.

    Raises:
        ValueError: One is out of its range.
    """
    _check_finite(config)
    positive = {
        "model.dim": config.model.dim,
        "model.patch-px": config.model.patch_px,
        "model.projector-layers": config.model.projector_layers,
        "model.hidden-dim": config.model.hidden_dim,
        "data.max-pixels": config.data.max_pixels,
        "optim.epochs": config.optim.epochs,
        "optim.lr": config.optim.lr,
        "run.max-steps": config.run.max_steps,
        "run.log-every-steps": config.run.log_every_steps,
        "run.keep-last": config.run.keep_last,
        "run.keep-every-steps": config.run.keep_every_steps,
        "run.checkpoint-every-s": config.run.checkpoint_every_s,
        "run.checkpoint-every-steps": config.run.checkpoint_every_steps,
        "run.resize-every-s": config.run.resize_every_s,
        "run.micro-batch-groups": config.run.micro_batch_groups,
        "run.cpus-per-worker": config.run.cpus_per_worker,
    }
    for name, value in positive.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} is {value}; use a number above 0")
    not_negative = {
        "optim.weight-decay": config.optim.weight_decay,
        "optim.warmup-epochs": config.optim.warmup_epochs,
        "run.retries": config.run.retries,
    }
    for name, value in not_negative.items():
        if value < 0:
            raise ValueError(f"{name} is {value}; use 0 or more")
    if config.optim.layer_decay != 1 and config.optim.optimizer == "lars":
        raise ValueError(
            f"optim.layer-decay {config.optim.layer_decay} goes with sgd and adamw; use 1, or another optim.optimizer than lars"
        )
    if not 0 < config.optim.layer_decay <= 1:
        raise ValueError(f"optim.layer-decay is {config.optim.layer_decay}; use a factor in (0, 1], such as 0.75")
    if not 0 <= config.optim.momentum < 1:
        raise ValueError(f"optim.momentum is {config.optim.momentum}; use a number in [0, 1), normally 0.9")
    if min(config.optim.milestones, default=0) < 0:
        raise ValueError(f"optim.milestones are {config.optim.milestones}; use epochs, 0 or more")
    if not 0 <= config.data.max_bad_fraction <= 1:
        raise ValueError(f"data.max-bad-fraction is {config.data.max_bad_fraction}; use a share in [0, 1]")
    if not -(2**63) <= config.run.seed < 2**64:  # as torch takes it
        raise ValueError(f"run.seed is {config.run.seed}; use a whole number of 64 bits, such as 0")
    if config.eval.resize_px is not None and config.eval.resize_px < config.views.crop_px:
        raise ValueError(
            f"eval.resize-px {config.eval.resize_px} is smaller than the crop of {config.views.crop_px}; "
            "use views.crop-px or more"
        )


def _check_finite(config: Config) -> None:
    for group in ("data", "views", "model", "method", "detection", "optim", "eval", "run"):
        for item in dataclasses.fields(getattr(config, group)):
            value = getattr(getattr(config, group), item.name)
            numbers = [
                number for number in (value if isinstance(value, tuple) else [value]) if isinstance(number, float)
            ]
            is_endless = item.name in _ENDLESS and numbers == [math.inf]
            if not is_endless and not all(map(math.isfinite, numbers)):
                name = f"{group}.{item.name}".replace("_", "-")
                wanted = "finite numbers" if len(numbers) > 1 else "a finite number"
                raise ValueError(f"{name} is {' '.join(map(str, numbers))}; use {wanted}")
