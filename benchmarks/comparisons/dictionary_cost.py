"""Time and memory of a step by the size of the dictionary: python -m benchmarks.comparisons.dictionary_cost.

MoCo and the memory bank keep their batch and get more keys; the end-to-end dictionary is its batch, so it goes as far
as a batch of that size can be held. Time is the median of steps that take turns. Memory is the peak over two steps,
weights, optimizer and activations included: on CUDA what the allocator gave out, on a CPU how much the resident memory of
a process of its own grew.

Claims (He et al. 2020, arXiv:1911.05722, Sec. 3.2; Chen et al. 2020, arXiv:2003.04297, Table 3: MoCo 5.0 GB a GPU and 53 h
with 65,536 keys, end-to-end 7.4 GB and 65 h with a batch of 256, an estimated 93 GB with 4,096): the cost of a large
dictionary is that of its batch. Goals: with 65,536 keys MoCo takes at most 1.2 times the time and memory that it takes
with the fewest, the memory bank likewise, and MoCo takes no more of either than any end-to-end dictionary.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.comparisons.plots import Point, save_line_panels
from benchmarks.device import setup
from benchmarks.device.setup import Place, learner_of, random_images
from benchmarks.harness import Row, at_most, finish, interleave, waiting
from moco_ray.config.methods.end_to_end import EndToEndConfig
from moco_ray.config.methods.memory_bank import MemoryBankConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.core.batch import resident_batch
from moco_ray.core.encoders import build_encoder

MOCO, BANK, END_TO_END = "MoCo", "memory bank", "end-to-end"
_GROUP_SIZE = 32
_MIB = 2**20
_FLAT = 1.2


@dataclass(frozen=True, kw_only=True)
class Case:
    """A mechanism and its number of keys."""

    mechanism: str
    """MOCO, BANK or END_TO_END."""
    num_keys: int
    """Keys that a query is compared with."""

    def __str__(self) -> str:
        return f"{self.mechanism}, {self.num_keys:,} keys"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all mechanisms share."""

    backbone: setup.Case
    """The backbone, and the batch of those that keep theirs."""
    place: Place
    """Where."""


def cases(s: Setting, *, largest: int, largest_batch: int) -> list[Case]:
    """Every mechanism by factors of four, from a batch (at least 256) on; the end-to-end one by factors of two."""
    smallest = max(256, s.backbone.batch_size)
    sizes = [smallest * 4**i for i in range(9) if smallest * 4**i <= largest]
    batches = [smallest * 2**i for i in range(9) if smallest * 2**i <= min(largest, largest_batch)]
    found = [Case(mechanism=name, num_keys=size) for name in (MOCO, BANK) for size in sizes]
    return found + [Case(mechanism=END_TO_END, num_keys=size) for size in batches]


def make_step(case: Case, s: Setting) -> Callable[[], object]:
    """One whole training step on random images."""
    size = case.num_keys if case.mechanism == END_TO_END else s.backbone.batch_size
    backbone = replace(s.backbone, batch_size=size)
    config: MoCoConfig | MemoryBankConfig | EndToEndConfig
    if case.mechanism == MOCO:
        config = MoCoConfig(queue_size=case.num_keys)
    elif case.mechanism == BANK:
        config = MemoryBankConfig(num_negatives=case.num_keys)
    else:
        config = EndToEndConfig()
    torch.manual_seed(0)
    learner = learner_of(
        build_encoder(backbone.model, backbone.px),
        backbone.model,
        config,
        OptimConfig(global_batch_size=size, bn_groups=size // _GROUP_SIZE),
        s.place,
        num_images=max(case.num_keys, size),  # the bank has an entry for each: as many as it draws
        autocast=s.place.autocast,
    )
    query = random_images(backbone, s.place)
    batch = resident_batch(
        query,
        query.flip(2),
        np.arange(size),
        step=0,
        seed=0,
        num_groups=size // _GROUP_SIZE,
        shuffle_bn=config.shuffles_keys,
    )
    return lambda: learner.step(batch, lr=0.01)


def times(some: list[Case], s: Setting, repeats: int) -> dict[Case, float]:
    """Median seconds a step; the cases take turns."""
    steps = {str(i): waiting(make_step(case, s), s.place.device) for i, case in enumerate(some)}
    seconds = interleave(steps, repeats)
    return {case: seconds[str(i)] for i, case in enumerate(some)}


def peak_mib(case: Case, s: Setting) -> float:
    """Peak memory of two steps in MiB, each case for itself."""
    if s.place.is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(s.place.device)
        before = torch.cuda.memory_allocated(s.place.device)
        _two_steps(case, s)
        return (torch.cuda.max_memory_allocated(s.place.device) - before) / _MIB
    # Forked before anything was computed here, so that the libraries are loaded once and no threads are lost.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(_resident_growth_mib, case, s).result()


def _two_steps(case: Case, s: Setting) -> None:
    step = make_step(case, s)
    step()
    step()
    s.place.wait()


def _resident_growth_mib(case: Case, s: Setting) -> float:
    torch.set_num_threads(1)
    tiny = replace(s, backbone=replace(s.backbone, batch_size=_GROUP_SIZE, px=32))
    _two_steps(Case(mechanism=case.mechanism, num_keys=_GROUP_SIZE), tiny)  # what any step loads does not count
    before = _status_mib("VmRSS")
    _two_steps(case, s)
    return _status_mib("VmHWM") - before


def _status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / 1024


def rows_of(figures: dict[Case, float], unit: str) -> list[Row]:
    """Each dictionary against the smallest of its mechanism; MoCo's largest against every end-to-end one."""
    rows = []
    for name in (MOCO, BANK):
        first, *others = [case for case in figures if case.mechanism == name]
        rows += [against(case, first, figures, unit, _FLAT) for case in others]
    moco = max((case for case in figures if case.mechanism == MOCO), key=lambda case: case.num_keys)
    rows += [against(moco, case, figures, unit, 1.0) for case in figures if case.mechanism == END_TO_END]
    return rows


def against(case: Case, peer: Case, figures: dict[Case, float], unit: str, goal: float) -> Row:
    return at_most(f"{case} against {peer}", figures[case], figures[peer], unit, goal)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None, help="file for the figures")
    parser.add_argument("--plot", default=None, help="file for the plot, a PNG")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each case")
    parser.add_argument("--largest", type=int, default=65536, help="keys of the largest dictionary")
    parser.add_argument("--largest-batch", type=int, default=1024, help="images of the largest end-to-end batch")
    parser.add_argument("--px", type=int, default=None, help="side of the images; 224 on a GPU, else 64")
    args = parser.parse_args(arguments)
    if torch.cuda.is_available():
        s = Setting(
            backbone=setup.Case(arch="resnet50", batch_size=256, px=args.px or 224),
            place=Place(device=torch.device("cuda", 0), is_tiny=False),
        )
    else:
        torch.set_num_threads(1)
        s = Setting(
            backbone=setup.Case(arch="resnet18", batch_size=_GROUP_SIZE, px=args.px or 64),
            place=Place(device=torch.device("cpu"), is_tiny=False),
        )
    all_cases = cases(s, largest=args.largest, largest_batch=args.largest_batch)
    memory = {case: peak_mib(case, s) for case in all_cases}
    by_mechanism = {name: [case for case in all_cases if case.mechanism == name] for name in (MOCO, BANK, END_TO_END)}
    seconds = times(by_mechanism[MOCO] + by_mechanism[BANK], s, args.repeats)
    for case in by_mechanism[END_TO_END]:  # one at a time: several of them would not fit beside each other
        seconds |= times([case], s, max(1, args.repeats // 3))
    for case in all_cases:
        print(f"{case}: {seconds[case]:.3f} s, {memory[case]:,.0f} MiB")
    if args.plot:
        panels = {
            label: {name: [Point(case.num_keys, figures[case]) for case in some] for name, some in by_mechanism.items()}
            for label, figures in (("seconds a step", seconds), ("peak memory, MiB", memory))
        }
        save_line_panels(args.plot, panels, x_label="keys in the dictionary", log=2)
    finish(rows_of(seconds, "s") + rows_of(memory, "MiB"), args.json)


if __name__ == "__main__":
    main()
