"""What one rank trains: a module and its optimizer, in step with those of all other ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from moco_ray.core.batch import Batch
from moco_ray.core.group_batch_norm import merged_running_statistics
from moco_ray.core.step_result import StepResult
from moco_ray.run_folder.checkpoint import State


class Learner(ABC):
    """A module in training.

    Attributes:
        module: All that training changes but for the optimizer; the same on all ranks, except for BatchNorm's buffers.
        optimizer: Over its parameters.
        device: That this rank trains on.
        dtype: Name of the numbers that are computed in.
        scaler: Of the loss, in float16; it does nothing in others.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        *,
        dtype: str = "float32",
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.module, self.optimizer, self.device, self.dtype = module, optimizer, device, dtype
        self.scaler = scaler or torch.amp.GradScaler(device.type, enabled=False)

    @abstractmethod
    def step(self, batch: Batch, *, lr: float, progress: float) -> StepResult:
        """Train on one global batch. All ranks must call, each with its own groups.

        Args:
            batch: This rank's part.
            lr: Learning rate.
            progress: Share of the run that is done, 0..1.
        """

    def try_memory(self, batch: Batch) -> None:
        """Before the first step: find out what fits into memory. All ranks must call."""

    def metrics(self, progress: float) -> dict[str, float]:
        """Values to log beside the loss."""
        return {}

    def restore(self, state: State) -> None:
        """Take over the state of a checkpoint."""
        self.module.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])

    def state(self, *, copy: bool) -> State | None:
        """Copy everything that training changes to the CPU. All ranks must call; only those with `copy` get it."""
        merged = merged_running_statistics(self.module)
        if not copy:
            return None
        return {
            "method": _to_cpu({**self.module.state_dict(), **merged}),
            "optimizer": _to_cpu(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict() or None,
            "dtype": self.dtype,
        }


def worker_device(uses_gpu: bool) -> torch.device:
    """The device that this worker trains on."""
    if not uses_gpu:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _to_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _to_cpu(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_to_cpu(item) for item in value]
    return value
