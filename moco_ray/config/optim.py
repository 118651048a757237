"""Batch, length and optimizer of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from moco_ray.config.schedules import Schedule, rate_factor


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Batch, length of the run, and optimizer. Defaults are MoCo v2's (arXiv:2003.04297)."""

    global_batch_size: int = 256
    """Images in one step over all workers. The number of workers does not change it."""
    bn_groups: int = 8
    """BatchNorm groups in the global batch (the GPUs of the paper); at most so many workers can share it."""
    epochs: int = 200
    """Length of the run: every image is seen once an epoch."""
    lr: float = 0.03
    """Learning rate for a global batch of 256; the rate in effect is lr * global_batch_size / 256."""
    optimizer: Literal["sgd", "lars", "adamw"] = "sgd"
    """"sgd" (v1, v2), "lars" (v3's ResNet-50, SimCLR) or "adamw" (v3's ViTs)."""
    momentum: float = 0.9
    """Momentum of SGD and LARS."""
    weight_decay: float = 1e-4
    """Weight decay, on all parameters; LARS leaves out biases and norms, as all do with a layer_decay; AdamW decouples it."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each block of a Transformer to the one before it (BEiT, arXiv:2106.08254: 0.65 to
    0.75 for fine-tuning); 1: all learn at one rate."""
    schedule: Schedule = "cosine"
    """How the rate falls: "milestones" (v1), "cosine" (v2) or "constant"."""
    schedule_per: Literal["epoch", "step"] = "epoch"
    """Whether the rate moves once an epoch (the paper) or at every step (better for short runs)."""
    milestones: tuple[int, ...] = (120, 160)
    """Epochs at which schedule "milestones" divides the rate by ten."""
    warmup_epochs: float = 0.0
    """Epochs over which the rate rises linearly from 0, at every step: 10 for v3's ResNet-50, 40 for its ViTs; neither
    v1 nor v2 has a warm-up."""

    @property
    def group_size(self) -> int:
        """Images in a BatchNorm group (g)."""
        return self.global_batch_size // self.bn_groups

    @property
    def effective_lr(self) -> float:
        """The rate before the schedule (Goyal et al. 2017, arXiv:1706.02677: linear in the batch)."""
        return self.lr * self.global_batch_size / 256

    def num_steps(self, num_rows: int) -> int:
        """Steps of the whole run over num_rows images: the last one may reach into the next epoch."""
        return math.ceil(self.epochs * num_rows / self.global_batch_size)

    def progress_at(self, position: int, num_rows: int) -> float:
        """Share of the whole run that is done before the step whose first image is at `position`, 0..1."""
        return min(1.0, position / (self.epochs * num_rows))

    def lr_at(self, position: int, num_rows: int) -> float:
        """Learning rate of the step whose first image is at `position` in a stream of epochs of num_rows."""
        epoch = position / num_rows
        if self.schedule_per == "epoch" and epoch >= self.warmup_epochs:
            epoch = max(position // num_rows, self.warmup_epochs)
        factor = rate_factor(self.schedule, epoch, self.epochs, milestones=self.milestones, warmup=self.warmup_epochs)
        return self.effective_lr * factor
