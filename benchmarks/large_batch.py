"""What exact micro-batches of MoCo v3 save and cost: python -m benchmarks.large_batch [--json FILE] [--repeats N].

A ViT's step in eight micro-batches against the same step in one piece; both give the same gradient. On one CPU thread a
vit_mini and 64 images of 32 pixels, on CUDA the ViT-S of the paper and 512 images.

- memory: on the CPU the most bytes that autograd keeps for backward passes at any time, on CUDA the most that torch
  allocates. Goal 0.35: an eighth of the backbone's activations, and the heads', which see the whole batch.
- time: goal 1.5: each micro-batch goes forward through the backbone once more (two of forward, key forward and backward
  become three of about four).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.device.setup import Place, learner_of
from benchmarks.harness import at_most, finish, interleave, waiting
from moco_ray.cli.presets import load_preset
from moco_ray.core.batch import resident_batch
from moco_ray.core.encoders import build_encoder

NUM_GROUPS = 8
MEMORY_GOAL, TIME_GOAL = 0.35, 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None, help="file for the figures")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side")
    args = parser.parse_args()
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda", 0) if on_cuda else torch.device("cpu")
    torch.set_num_threads(1)
    whole, cut = (step(device, groups) for groups in (NUM_GROUPS, 1))
    kept = {name: peak_bytes(work, device) / 2**20 for name, work in (("whole", whole), ("cut", cut))}
    seconds = interleave({"whole": waiting(whole, device), "cut": waiting(cut, device)}, args.repeats)
    case = "in eight micro-batches, against one piece"
    finish(
        [
            at_most(f"memory {case}", kept["cut"], kept["whole"], "MiB", MEMORY_GOAL),
            at_most(f"time {case}", seconds["cut"], seconds["whole"], "s", TIME_GOAL),
        ],
        args.json,
    )


def step(device: torch.device, micro_batch_groups: int) -> Callable[[], object]:
    """A step of MoCo v3 on images that lie on the device."""
    config = load_preset("moco-v3-vit-small" if device.type == "cuda" else "moco-v3-vit-mini")
    size = 512 if device.type == "cuda" else 64
    config = replace(config, optim=replace(config.optim, global_batch_size=size, bn_groups=NUM_GROUPS))
    torch.manual_seed(0)
    encoder = build_encoder(config.model, config.views.crop_px)
    place = Place(device=device, is_tiny=False)
    options = {"autocast": place.autocast, "micro_batch_groups": micro_batch_groups}
    learner = learner_of(encoder, config.model, config.method, config.optim, place, **options)
    shape = (size, config.views.crop_px, config.views.crop_px, 3)
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8).to(device)
    rows = np.arange(size)
    batch = resident_batch(images, images.flip(2), rows, step=0, seed=0, num_groups=NUM_GROUPS, shuffle_bn=False)

    def run() -> None:
        learner.step(batch, lr=1e-4)
        assert learner.micro_batches.groups == micro_batch_groups, "memory ran out, and the batch was cut further"

    return run


def peak_bytes(work: Callable[[], object], device: torch.device) -> float:
    """The most memory that a run of work needs at any time, as the docstring above defines it."""
    work()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return float(torch.cuda.max_memory_allocated(device))
    with _kept_bytes() as peak:
        work()
    return peak[0]


@contextmanager
def _kept_bytes() -> Iterator[list[float]]:
    """Count the bytes that autograd keeps; each storage once, however many operators share it."""
    peak, holders = [0.0], dict[int, int]()
    sizes, kept = dict[int, int](), [0]

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor, self.place = tensor, tensor.untyped_storage().data_ptr()
            if holders.get(self.place, 0) == 0:
                sizes[self.place] = tensor.untyped_storage().nbytes()
                kept[0] += sizes[self.place]
                peak[0] = max(peak[0], kept[0])
            holders[self.place] = holders.get(self.place, 0) + 1

        def __del__(self) -> None:
            holders[self.place] -= 1
            if holders[self.place] == 0:
                kept[0] -= sizes[self.place]

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda held: held.tensor):
        yield peak


if __name__ == "__main__":
    main()
