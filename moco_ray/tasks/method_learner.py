"""Learners of everything that is trained by the one step of all methods: `core/step.py`."""

from __future__ import annotations

import torch

from moco_ray.config import Config
from moco_ray.core.batch import Batch
from moco_ray.core.global_batch_norm import use_global_batch_norm
from moco_ray.core.group_batch_norm import keep_running_share, use_group_batch_norm
from moco_ray.core.method import Method
from moco_ray.core.optim import build_optimizer
from moco_ray.core.precision import autocast_of, weights_of
from moco_ray.core.step import Learner as StepLearner
from moco_ray.core.step_result import StepResult
from moco_ray.run_folder.checkpoint import State
from moco_ray.tasks.arithmetic import choose_dtype
from moco_ray.tasks.job import Job
from moco_ray.tasks.learner import Learner, worker_device


class MethodLearner(Learner):
    """A method's learner on this rank.

    Attributes:
        steps: Whose steps these are.
    """

    def __init__(self, steps: StepLearner, dtype: str) -> None:
        super().__init__(steps.method, steps.optimizer, steps.device, dtype=dtype, scaler=steps.scaler)
        self.steps = steps

    def step(self, batch: Batch, *, lr: float, progress: float) -> StepResult:
        """Algorithm 1 of arXiv:1911.05722, or what the method makes of it. All ranks must call."""
        return self.steps.step(batch, lr=lr, progress=progress)

    def try_memory(self, batch: Batch) -> None:
        """Find the micro-batch that fits. All ranks must call."""
        self.steps.try_memory(batch)

    def metrics(self, progress: float) -> dict[str, float]:
        """What the method schedules, and how full its dictionary is."""
        return self.steps.method.metrics(progress)


def method_learner(method: Method, job: Job, restored: State | None) -> MethodLearner:
    """Make the learner of a method with plain BatchNorm, from there or from a checkpoint. All ranks must call."""
    config = job.config
    _share_batch_norm(method, config)
    device = worker_device(job.uses_gpu)
    dtype = choose_dtype(config.run, restored, device)
    method.to(device=device, dtype=weights_of(dtype), memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = StepLearner(
        method,
        build_optimizer(method.trained(), config.optim),
        mean=config.views.mean,
        std=config.views.std,
        autocast=autocast_of(dtype),
        micro_batch_groups=config.run.micro_batch_groups,
        compiler="inductor" if config.run.compile else None,
        compresses_gradients=config.run.compress_gradients,
    )
    learner = MethodLearner(steps, dtype)
    if restored is not None:
        learner.restore(restored)
    keep_running_share(method)
    method.train()
    return learner


def _share_batch_norm(method: Method, config: Config) -> None:
    """Let BatchNorm see what it is to see of the batch, however many workers share that."""
    if config.batch_norm == "group":
        use_group_batch_norm(method, config.optim.group_size)
    elif config.batch_norm == "global":
        use_global_batch_norm(method)
