"""The devices that the ranks of a group train on, and what there is to know of them."""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist

from moco_ray.core import collectives
from moco_ray.core.precision import has_bfloat16
from moco_ray.tasks.arithmetic import words
from moco_ray.tasks.job import Job
from moco_ray.tasks.learner import Learner

log = logging.getLogger(__name__)


def say_devices(job: Job, learner: Learner) -> None:
    """Say in which numbers the run computes, and where workers have different GPUs. All ranks must call."""
    device, models = learner.device, _device_models(learner.device)
    all_have = bool(collectives.all_reduce_min(int(has_bfloat16(device)), device))
    for line in words(job.config.run, learner.dtype, models, all_have_bfloat16=all_have):
        log.info(line)
    if advice := about_devices(models):
        log.info(advice)


def about_devices(models: list[str]) -> str | None:
    """What to know of workers on these models."""
    if len(set(models)) == 1:
        return None
    counts = ", ".join(f"{models.count(model)} x {model}" for model in sorted(set(models)))
    return f"the workers have different GPUs ({counts}): all wait for the slowest at every step"


def same_devices(device: torch.device) -> bool:
    """Whether all ranks have the same model. All ranks must call."""
    return len(set(_device_models(device))) == 1


def _device_models(device: torch.device) -> list[str]:
    """The model of every rank's device. All ranks must call."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    if collectives.world_size() == 1:
        return [name]
    names: list[str] = ["" for _ in range(collectives.world_size())]
    dist.all_gather_object(names, name)
    return names
