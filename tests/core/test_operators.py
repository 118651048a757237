"""How many operators a step takes beside those of its backbones: each is a launch, which a GPU waits for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.core import group_batch_norm, group_kernels, group_normalize
from moco_ray.core.batch import resident_batch
from moco_ray.core.encoders import build_encoder
from moco_ray.core.group_batch_norm import use_group_batch_norm
from moco_ray.core.methods.moco import MoCo
from moco_ray.core.optim import build_optimizer
from moco_ray.core.step import Learner
from tests.core.tiny import MEAN, STD


class _Operators(TorchDispatchMode):
    """Counts operators that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_view = any(a.alias_info is not None and not a.alias_info.is_write for a in operator._schema.arguments)
        self.count += not is_view
        return operator(*args, **(kwargs or {}))


class _Launches:
    """In the place of a Triton kernel, which needs a GPU: counts how often it is launched."""

    def __init__(self) -> None:
        self.count = 0

    def __getitem__(self, grid: tuple[int, ...]) -> _Launches:
        return self

    def __call__(self, *arguments: object, **constants: object) -> None:
        self.count += 1


def _operators(num_groups: int) -> int:
    """Operators of a step of MoCo v2 with a ResNet-50 under autocast."""
    moco = MoCo(build_encoder(ModelConfig()), MoCoConfig(queue_size=64), torch.Generator().manual_seed(0))
    use_group_batch_norm(moco, 16 // num_groups)
    learner = Learner(moco, build_optimizer(moco.trained(), OptimConfig()), mean=MEAN, std=STD, autocast=torch.bfloat16)
    images = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8)
    batch = resident_batch(images, images, np.arange(16), step=0, seed=0, num_groups=num_groups, shuffle_bn=True)
    learner.step(batch, lr=0.01)
    with _Operators() as operators:
        learner.step(batch, lr=0.01)
    return operators.count


def test_a_step_of_one_group_takes_few_operators_more_than_bare_backbones() -> None:
    assert _operators(1) <= 1000  # bare: 798


def test_eight_groups_on_a_gpu_take_hardly_more_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = {name: _Launches() for name in dir(group_kernels) if name.endswith("_kernel")}
    for name, kernel in kernels.items():
        monkeypatch.setattr(group_kernels, name, kernel)
    monkeypatch.setattr(group_batch_norm, "_normalizer", lambda x: group_normalize.GroupNormalize)
    operators = _operators(8)
    launches = sum(kernel.count for kernel in kernels.values()) // 2  # of the two steps
    assert launches == 3 * 3 * 53 and operators + launches <= 2000
