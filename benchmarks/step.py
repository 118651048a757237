"""What MoCo adds to its backbone: python -m benchmarks.step [--json FILE] [--repeats N].

Each ratio is of medians of runs that take turns, in float32 on one CPU thread (threads wait for each other, which on a
busy machine measures the neighbours) or in bfloat16 autocast on CUDA:

- step: a whole training step against what no MoCo can do without: forward and backward of the queries and forward of
  the keys, through bare backbones. Goal 1.15: the projector, the queue, group BatchNorm, SGD and the momentum update
  touch little memory beside the activations; a step above it waits for something or copies images.
- group_batch_norm: backbone forward and backward in 8 BatchNorm groups against plain BatchNorm2d. Goal 1.07: splitting
  and concatenating moves each activation once more.
- momentum_update: one fused update of the whole key encoder against a loop over its tensors, as in the reference.
  Goal 1.0: never slower.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import Row, finish, interleave
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.core.batch import Batch, resident_batch
from moco_ray.core.encoders import build_backbone, build_encoder, momentum_update, normalize
from moco_ray.core.group_batch_norm import use_group_batch_norm
from moco_ray.core.methods.moco import MoCo
from moco_ray.core.optim import build_optimizer
from moco_ray.core.step import Learner

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NUM_GROUPS = 8


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A backbone and a batch that the device can do several times a minute."""

    model: ModelConfig
    size_px: int
    batch_size: int
    queue_size: int
    device: torch.device
    autocast: torch.dtype | None


def setting() -> Setting:
    if torch.cuda.is_available():
        return Setting(
            model=ModelConfig(arch="resnet50"),
            size_px=224,
            batch_size=256,
            queue_size=65536,
            device=torch.device("cuda", 0),
            autocast=torch.bfloat16,
        )
    torch.set_num_threads(1)
    return Setting(
        model=ModelConfig(arch="resnet18", stem="cifar"),
        size_px=32,
        batch_size=64,
        queue_size=4096,
        device=torch.device("cpu"),
        autocast=None,
    )


def waiting(work: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Work that ends only when the device is done."""

    def run() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def images(s: Setting) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (s.batch_size, s.size_px, s.size_px, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(s.device)


def moco_step(s: Setting) -> Callable[[], object]:
    moco = MoCo(build_encoder(s.model), MoCoConfig(queue_size=s.queue_size), torch.Generator().manual_seed(0))
    use_group_batch_norm(moco, s.batch_size // NUM_GROUPS)
    moco.to(s.device)
    if s.device.type == "cuda":
        moco.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(moco.trained(), OptimConfig())
    learner = Learner(moco, optimizer, mean=MEAN, std=STD, autocast=s.autocast)
    rows = np.arange(s.batch_size)
    query = images(s)
    batch: Batch = resident_batch(query, query.flip(2), rows, step=0, seed=0, num_groups=NUM_GROUPS, shuffle_bn=True)
    return lambda: learner.step(batch, lr=0.01)


def forward_backward(s: Setting, backbone: nn.Module, *, keys: bool) -> Callable[[], None]:
    """Forward and backward of the images and, with keys, one more forward pass of as many."""
    backbone = backbone.to(s.device)
    if s.device.type == "cuda":
        backbone = backbone.to(memory_format=torch.channels_last)
    x = normalize(images(s), torch.tensor(MEAN, device=s.device), torch.tensor(STD, device=s.device))

    def run() -> None:
        backbone.zero_grad(set_to_none=False)
        with torch.autocast(s.device.type, dtype=s.autocast, enabled=s.autocast is not None):
            if keys:
                with torch.no_grad():
                    backbone(x)
            loss = backbone(x).float().sum()
        loss.backward()

    return run


def reference_momentum_update(key_encoder: nn.Module, query_encoder: nn.Module, momentum: float) -> None:
    for k, q in zip(key_encoder.parameters(), query_encoder.parameters(), strict=True):
        k.data = k.data * momentum + q.data * (1.0 - momentum)


def step_row(s: Setting, repeats: int) -> Row:
    bare = forward_backward(s, build_backbone(s.model), keys=True)
    return ratio_row("step", "bare backbones", 1.15, moco_step(s), bare, s, repeats)


def group_batch_norm_row(s: Setting, repeats: int) -> Row:
    plain = build_backbone(s.model)
    grouped = copy.deepcopy(plain)
    use_group_batch_norm(grouped, s.batch_size // NUM_GROUPS)
    ours, bare = (forward_backward(s, backbone, keys=False) for backbone in (grouped, plain))
    return ratio_row("group_batch_norm", "plain BatchNorm2d", 1.07, ours, bare, s, repeats)


def momentum_update_row(s: Setting, repeats: int) -> Row:
    query = build_backbone(ModelConfig(arch="resnet50")).to(s.device)
    key = copy.deepcopy(query)
    return ratio_row(
        "momentum_update resnet50",
        "loop over tensors",
        1.0,
        lambda: momentum_update(key, query, 0.999),
        lambda: reference_momentum_update(key, query, 0.999),
        s,
        repeats,
    )


def ratio_row(
    case: str,
    peer: str,
    goal: float,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    s: Setting,
    repeats: int,
) -> Row:
    """Time both in turns; the goal is the largest good ratio of our time to theirs."""
    runs = {"ours": waiting(ours, s.device), "theirs": waiting(theirs, s.device)}
    for run in runs.values():
        run()  # allocators and algorithm choices
    seconds = interleave(runs, repeats)
    ratio = seconds["ours"] / seconds["theirs"]
    return Row(
        case=f"{case} against {peer}",
        value=seconds["ours"],
        unit="s",
        baseline=seconds["theirs"],
        ratio=ratio,
        goal=goal,
        passed=ratio <= goal,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None, help="file for the figures")
    parser.add_argument("--repeats", type=int, default=9, help="runs of each side")
    args = parser.parse_args()
    s = setting()
    finish([make(s, args.repeats) for make in (step_row, group_batch_norm_row, momentum_update_row)], args.json)


if __name__ == "__main__":
    main()
