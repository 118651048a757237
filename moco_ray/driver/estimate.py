"""What a run will take: memory counted without computing anything, and the time of one step measured in small."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from moco_ray.config import Config
from moco_ray.core.batch import resident_batch
from moco_ray.core.encoders import build_encoder
from moco_ray.core.group_batch_norm import has_batch_norm
from moco_ray.core.method import Setting
from moco_ray.core.optim import build_optimizer
from moco_ray.core.precision import autocast_of, has_bfloat16, weights_of
from moco_ray.tasks.job import Job

_BUDGET_S = 3.0  # for the step that is measured
_MOMENTS = {"sgd": 1, "lars": 1, "adamw": 2}  # numbers that an optimizer keeps for each weight
_FEW = 2  # images: the fewest that BatchNorm takes


@dataclass(frozen=True, kw_only=True)
class Size:
    """Bytes."""

    checkpoint: int
    """Of a checkpoint: all that training changes."""
    training: int
    """Of weights, gradients, optimizer and kept keys in a worker's memory."""
    activations: int
    """Of what the backward pass of one BatchNorm group through each query module needs, beside that."""
    all_activations: int
    """Of what that of the whole batch needs, with all views that have gradients."""
    can_be_cut: bool
    """Whether the batch can go through the encoder in micro-batches."""
    parameters: int
    """Number of weights of the query encoder."""
    num_groups: int
    """BatchNorm groups of a batch."""
    flops: float
    """Of the convolutions and matrix products of a step."""

    def groups_at_once(self, memory: float) -> int:
        """How many groups fit into so many bytes together with what training needs anyway; of any number."""
        return max(0, int((memory - self.training) / (self.all_activations / self.num_groups)))


def measure_size(config: Config, num_images: int, device: torch.device) -> Size:
    """Count the memory of a run, on the meta device: no weight is drawn.

    Args:
        config: With every automatic value decided.
        num_images: Images that training sees.
        device: Where it would train, on which an automatic dtype depends.
    """
    dtype = weights_of(config.run.dtype)
    with torch.device("meta"):
        encoder = build_encoder(config.model, config.views.crop_px)
        setting = Setting(seed=0, model=config.model, num_images=num_images)
        method = config.method.build(encoder, setting).to(dtype)
        images = torch.empty(
            max(_FEW, config.optim.group_size), 3, config.views.crop_px, config.views.crop_px, dtype=dtype
        )
    optimizer = build_optimizer(method.trained(), config.optim)
    learned = sum(p.numel() for group in optimizer.param_groups for p in group["params"]) * dtype.itemsize
    state = sum(tensor.numel() * tensor.element_size() for tensor in method.state_dict().values())
    checkpoint = state + _MOMENTS[config.optim.optimizer] * learned
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[id(tensor.untyped_storage())] = tensor
        return tensor

    method.train()
    counter = FlopCounterMode(display=False)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), counter:
        method.query_encoder(images)
    weights = {id(parameter.untyped_storage()) for parameter in method.parameters()}
    activations = sum(tensor.untyped_storage().nbytes() for name, tensor in kept.items() if name not in weights)
    if autocast_of(config.run.dtype) or (config.run.dtype == "auto" and has_bfloat16(device)):
        activations //= 2
    no_pixels = torch.empty(config.optim.group_size, 1, 1, 3, dtype=torch.uint8, device="meta")
    batch = resident_batch(
        no_pixels, no_pixels, np.arange(len(no_pixels)), step=0, seed=0, num_groups=1, shuffle_bn=False
    )
    views = sum(len(images) for images in method.query_images(batch)) // config.optim.group_size
    passes = 3 * views  # backward passes take twice what forward passes take
    if config.method.encoder_momentum is not None:
        passes += method.queries_per_image  # of keys, forward
    return Size(
        checkpoint=checkpoint,
        training=checkpoint + learned,
        activations=activations * len(method.query_modules()),
        all_activations=activations * views * config.optim.bn_groups,
        can_be_cut=config.method.batch_norm == "group" or not has_batch_norm(encoder.backbone),
        parameters=sum(parameter.numel() for parameter in method.query_encoder.parameters()),
        num_groups=config.optim.bn_groups,
        flops=passes * counter.get_total_flops() / len(images) * config.optim.global_batch_size,
    )


def measure_step(job: Job, rows: np.ndarray) -> float:
    """Measure training steps of few images here, and return the seconds that a step of the whole batch would take.

    Args:
        job: Of the run.
        rows: Some rows that training sees, at least one.
    """
    config = job.config
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))
    try:
        few = replace(config, optim=replace(config.optim, global_batch_size=_FEW, bn_groups=1))
        learner = job.task.build(replace(job, config=few), None)
        images = np.random.default_rng(0).integers(
            0,
            256,
            (2, max(_FEW, config.optim.group_size), config.views.crop_px, config.views.crop_px, 3),
            dtype=np.uint8,
        )

        def seconds(count: int) -> float:
            query, key = (torch.from_numpy(view[:count]).to(learner.device) for view in images)
            batch = resident_batch(
                query,
                key,
                np.resize(rows, count),
                step=0,
                seed=0,
                num_groups=count // _FEW,
                shuffle_bn=config.method.shuffles_keys,
            )
            start = time.monotonic()
            learner.step(batch, lr=0.0, progress=0.0).values()  # reading the values waits for a GPU
            return time.monotonic() - start

        seconds(_FEW)  # the first one warms up
        a_few = seconds(_FEW)
        count = int(min(config.optim.group_size, _BUDGET_S / max(a_few, 1e-6) * _FEW)) // _FEW * _FEW
        return seconds(max(count, _FEW)) * config.optim.global_batch_size / max(count, _FEW)
    finally:
        torch.set_num_threads(before)
