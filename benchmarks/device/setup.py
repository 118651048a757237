"""What the sections of benchmarks.gpu share: the device, networks in training, and times in steady state."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moco_ray.config.method import MethodConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.core.batch import Batch, resident_batch
from moco_ray.core.encoders import Encoder, build_backbone, build_encoder, normalize
from moco_ray.core.global_batch_norm import use_global_batch_norm
from moco_ray.core.group_batch_norm import keep_running_share, use_group_batch_norm
from moco_ray.core.method import Setting
from moco_ray.core.optim import build_optimizer
from moco_ray.core.step import Learner

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and how large."""

    device: torch.device
    """The GPU, or the CPU to see that everything runs."""
    is_tiny: bool
    """Smallest sizes, whose times say nothing."""
    cifar: Path | None = None
    """An archive of JPEGs train/CLASS/*.jpg and test/CLASS/*.jpg; None: random images."""
    epochs: int = 200
    """Of the demo."""
    symmetric: bool = False
    """Whether the demo's loss goes both ways."""
    budget_s: float = 480.0
    """Seconds after which the demo ends."""

    @property
    def is_cuda(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    @property
    def autocast(self) -> torch.dtype | None:
        """bfloat16 on a GPU; most CPUs only imitate it."""
        return torch.bfloat16 if self.is_cuda else None

    @property
    def compiler(self) -> str:
        """torch.compile's backend: on a CPU one that needs no C++ compiler and gains nothing."""
        return "inductor" if self.is_cuda else "aot_eager"

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A backbone and a batch."""

    arch: str
    batch_size: int
    px: int
    queue_size: int = 64
    stem: str = "imagenet"
    steps: int = 1
    """Steps between two looks at the clock."""
    goal: float = 0.0
    """Least share of the bare backbones' speed."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.arch} {self.px} px batch {self.batch_size}"

    @property
    def model(self) -> ModelConfig:
        """Of the backbone."""
        return ModelConfig(arch=self.arch, stem=self.stem)


TINY = Case(arch="tiny_resnet", batch_size=16, px=32)


def learner_of(
    encoder: Encoder,
    model: ModelConfig,
    config: MethodConfig,
    optim: OptimConfig,
    place: Place,
    *,
    num_images: int = 10_000,
    **options: Any,
) -> Learner:
    """A learner as a worker builds it, on the place's device, in the encoder's dtype.

    Args:
        encoder: With fresh weights.
        model: What it was built from, for further heads.
        config: Of the method.
        optim: Of the optimizer; it says how large a BatchNorm group is.
        place: Where.
        num_images: For which a memory bank has entries.
        options: For the Learner.
    """
    setting = Setting(seed=5, model=model, num_images=num_images)
    dtype = next(encoder.parameters()).dtype
    method = config.build(encoder, setting).to(dtype)
    if config.batch_norm == "group":
        use_group_batch_norm(method, optim.group_size)
    else:
        use_global_batch_norm(method)
    method.to(device=place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    learner = Learner(method, build_optimizer(method.trained(), optim), **{"mean": MEAN, "std": STD, **options})
    keep_running_share(method)
    return learner


def moco_learner(case: Case, num_groups: int, place: Place, **options: Any) -> Learner:
    """MoCo v2 with a case's backbone and batch."""
    torch.manual_seed(0)
    optim = OptimConfig(global_batch_size=case.batch_size, bn_groups=num_groups)
    config = MoCoConfig(queue_size=case.queue_size, shuffle_bn=num_groups > 1)
    encoder = build_encoder(case.model, case.px)
    return learner_of(encoder, case.model, config, optim, place, autocast=place.autocast, **options)


def random_images(case: Case, place: Place) -> Tensor:
    """(n, px, px, 3) uint8 on the device."""
    shape = (case.batch_size, case.px, case.px, 3)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8).to(place.device)


def resident(case: Case, num_groups: int, place: Place) -> Batch:
    """A batch that lies on the device."""
    query = random_images(case, place)
    rows = np.arange(case.batch_size)
    return resident_batch(query, query.flip(2), rows, step=0, seed=0, num_groups=num_groups, shuffle_bn=num_groups > 1)


def moco_step(case: Case, num_groups: int, place: Place, *, is_compiled: bool = False) -> Callable[[], object]:
    """A step of MoCo v2 on a batch that lies on the device."""
    learner = moco_learner(case, num_groups, place, **({"compiler": place.compiler} if is_compiled else {}))
    return partial(learner.step, resident(case, num_groups, place), lr=0.01)


def bare_step(
    case: Case, place: Place, *, is_compiled: bool = False, layout: torch.memory_format | None = None
) -> Callable[[], None]:
    """What no MoCo can do without: forward of a key backbone, forward and backward of a query backbone, and SGD.

    Args:
        case: The backbone and the batch.
        place: Where.
        is_compiled: Whether torch.compile has both.
        layout: Of weights and images in memory; None: channels-last on a GPU, contiguous as torch builds it on a CPU.
    """
    layout = layout or (torch.channels_last if place.is_cuda else torch.contiguous_format)
    torch.manual_seed(0)
    query = build_backbone(case.model, case.px).to(place.device)
    query = query.to(memory_format=layout)  # type: ignore[call-overload]
    key = copy.deepcopy(query).requires_grad_(False)
    optimizer = torch.optim.SGD(query.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    x = standardised(case, place).contiguous(memory_format=layout)
    if is_compiled:
        query.compile(backend=place.compiler, dynamic=False)
        key.compile(backend=place.compiler, dynamic=False)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast(place.device.type, dtype=place.autocast, enabled=place.is_cuda):
            with torch.no_grad():
                key(x)
            output = query(x)
        output.float().sum().backward()
        optimizer.step()

    return run


def standardised(case: Case, place: Place) -> Tensor:
    """(n, 3, px, px) float32 on the device."""
    mean, std = (torch.tensor(values, device=place.device) for values in (MEAN, STD))
    return normalize(random_images(case, place), mean, std)


def seconds_a_step(
    runs: dict[str, Callable[[], object]], steps: int, place: Place, repeats: int = 3
) -> dict[str, float]:
    """Median seconds of a step in steady state, by name: of many steps, which take turns with those of the others."""
    for run in runs.values():
        for _ in range(3 if place.is_cuda else 1):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            place.wait()
            start = time.perf_counter()
            for _ in range(steps):
                run()
            place.wait()
            seconds[name].append((time.perf_counter() - start) / steps)
    return {name: statistics.median(values) for name, values in seconds.items()}
