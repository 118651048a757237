"""A MoCo small enough that a step takes milliseconds, and images for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco_ray.config.method import MethodConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.core.batch import Batch, resident_batch
from moco_ray.core.encoders import Encoder, build_projector
from moco_ray.core.global_batch_norm import use_global_batch_norm
from moco_ray.core.group_batch_norm import keep_running_share, merged_running_statistics, use_group_batch_norm
from moco_ray.core.method import Setting
from moco_ray.core.methods.moco import MoCo
from moco_ray.core.optim import build_optimizer
from moco_ray.core.step import Learner

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
BATCH_SIZE, NUM_GROUPS, SEED = 32, 8, 5
GROUP_SIZE = BATCH_SIZE // NUM_GROUPS


class TinyResNet(nn.Module):
    """One residual block, BatchNorm three times, 12 features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv3, self.bn3 = nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(x + self.bn3(self.conv3(F.relu(self.bn2(self.conv2(x))))))
        return x.mean(dim=(2, 3))


class PlainNet(nn.Module):
    """No BatchNorm: nothing that sees more than one image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.conv(images)).mean(dim=(2, 3))


class TinyViT(nn.Module):
    """What a ViT is to a method: no BatchNorm, and a part that never learns."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, stride=4).requires_grad_(False)
        self.norm, self.mix = nn.LayerNorm(12), nn.Linear(12, 12)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)  # (N, patches, 12)
        return (x + F.gelu(self.mix(self.norm(x)))).mean(dim=1)


def method_learner(
    config: MethodConfig,
    backbone: Callable[[], nn.Module] = TinyResNet,
    *,
    model: ModelConfig | None = None,
    micro_batch_groups: int | None = None,
    num_images: int = 100,
) -> Learner:
    """A float64 learner of any method, the same on every rank."""
    model = model or ModelConfig(dim=8)
    torch.manual_seed(0)
    net = backbone()
    setting = Setting(seed=SEED, model=model, num_images=num_images)
    method = config.build(Encoder(net, build_projector(model, 12), model.dim), setting).double()
    if config.batch_norm == "group":
        use_group_batch_norm(method, GROUP_SIZE)
    else:
        use_global_batch_norm(method)
    optimizer = build_optimizer(method.trained(), OptimConfig(lr=0.1, weight_decay=1e-3))
    learner = Learner(method, optimizer, mean=MEAN, std=STD, micro_batch_groups=micro_batch_groups)
    keep_running_share(method)
    return learner


def tiny_encoder(backbone: Callable[[], nn.Module] = TinyResNet) -> Encoder:
    torch.manual_seed(0)
    return Encoder(backbone(), build_projector(ModelConfig(dim=8), 12), dim=8)


def tiny_learner(
    backbone: Callable[[], nn.Module] = TinyResNet,
    *,
    micro_batch_groups: int | None = None,
    queue_size: int = 70,
    group_size: int = GROUP_SIZE,
    shuffle_bn: bool = True,
    encoder_momentum: float = 0.9,
) -> Learner:
    """A float64 learner, the same on every rank."""
    config = MoCoConfig(
        queue_size=queue_size, temperature=0.2, encoder_momentum=encoder_momentum, shuffle_bn=shuffle_bn
    )
    moco = MoCo(tiny_encoder(backbone), config, torch.Generator().manual_seed(1)).double()
    use_group_batch_norm(moco, group_size)
    keep_running_share(moco)
    optimizer = build_optimizer(moco.trained(), OptimConfig(lr=0.1, weight_decay=1e-3))
    return Learner(moco, optimizer, mean=MEAN, std=STD, micro_batch_groups=micro_batch_groups)


def views(step: int, *, batch_size: int = BATCH_SIZE, size_px: int = 8) -> tuple[Tensor, Tensor]:
    """Query and key views (B, H, W, 3) uint8: noisy copies of an image of 2 x 2 coloured patches."""
    generator = torch.Generator().manual_seed(1000 + step)
    patches = torch.randint(0, 256, (batch_size, 2, 2, 3), generator=generator)
    images = patches.repeat_interleave(size_px // 2, dim=1).repeat_interleave(size_px // 2, dim=2)
    query, key = (images + torch.randint(-60, 61, images.shape, generator=generator) for _ in range(2))
    return query.clamp(0, 255).to(torch.uint8), key.clamp(0, 255).to(torch.uint8)


def tiny_batch(step: int, *, num_groups: int = NUM_GROUPS, shuffle_bn: bool = True) -> Batch:
    query, key = views(step)
    rows = np.arange(step * BATCH_SIZE, (step + 1) * BATCH_SIZE)
    return resident_batch(query, key, rows, step=step, seed=SEED, num_groups=num_groups, shuffle_bn=shuffle_bn)


def train(learner: Learner, num_steps: int, *, first_step: int = 0, lr: float = 0.1) -> list[dict[str, float | int]]:
    return [
        learner.step(
            tiny_batch(step, shuffle_bn=learner.method.config.shuffles_keys), lr=lr, progress=step / 10
        ).values()
        for step in range(first_step, first_step + num_steps)
    ]


def state_of(learner: Learner) -> dict[str, Any]:
    """Everything that must not depend on how the batch was shared out. All ranks must call."""
    return {
        "parameters": {name: p.detach().clone() for name, p in learner.method.named_parameters()},
        "gradients": {n: p.grad.clone() for n, p in learner.method.named_parameters() if p.grad is not None},
        "buffers": {name: b.clone() for name, b in learner.method.state_dict().items() if is_shared(name)},
        "statistics": merged_running_statistics(learner.method),
    }


def is_shared(name: str) -> bool:
    """Whether a name in a method's state is that of a buffer which all ranks hold alike."""
    return name.startswith(("queue.", "bank")) or "num_batches_tracked" in name


def assert_states_equal(actual: dict[str, Any], expected: dict[str, Any], *, rtol: float, atol: float) -> None:
    assert actual.keys() == expected.keys()
    for part in expected:
        assert actual[part].keys() == expected[part].keys()
        for name in expected[part]:
            torch.testing.assert_close(
                actual[part][name],
                expected[part][name],
                rtol=rtol,
                atol=atol,
                msg=lambda text, where=f"{part}: {name}": f"{where}\n{text}",
            )


def assert_curves_equal(
    actual: list[dict[str, float | int]], expected: list[dict[str, float | int]], *, rel: float = 1e-12
) -> None:
    for name in ("train/loss", "train/positive_cosine"):
        assert [v[name] for v in actual] == pytest.approx([v[name] for v in expected], rel=rel)
    for name in ("train/contrast_accuracy", "rows_digest"):
        assert [v[name] for v in actual] == [v[name] for v in expected]
