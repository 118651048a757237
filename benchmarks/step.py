"""What MoCo adds to its backbone: python -m benchmarks.step [--against FOLDER] [--json FILE] [--repeats N].

In float32 on one CPU thread; a GPU has benchmarks.gpu. Each ratio is of medians of runs that take turns, in seconds of
processor time: one thread waits for nobody, and on a busy machine a clock on the wall measures the neighbours.

- step: a whole training step, in one BatchNorm group, against what no MoCo can do without: forward of a key backbone,
  forward and backward of a query backbone, and plain torch SGD on the latter, as torch builds networks: contiguous.
  Projector, queue, loss, momentum update and uint8 images come on top. Goals:

  | backbone | images | queue | goal | the published code | lightly |
  |---|---|---|---|---|---|
  | ResNet-18 | 32 of 64 px | 65,536 | 1.03 | 1.20 | 1.09 |
  | ResNet-50 | 16 of 96 px | 65,536 | 1.03 | 1.11 | 1.05 |
  | ResNet-18, cifar stem | 64 of 32 px | 4,096 | 1.015 | 1.06 | 1.015 |

  The last two columns are what theirs took on such a machine.
- step against channels-last: the same against bare backbones that are channels-last in memory, as ours are and as few
  users have theirs on a CPU. No goal but to be within 1.15, since what is left is what MoCo adds.
- step in 8 groups: the last of these, with its batch in 8 BatchNorm groups on one worker, which no other code has.
  Goal 1.05.
- momentum_update: one fused update of the whole key encoder against a loop over its tensors, as in the reference.
  Goal 1.0: never slower.
- step against before, with --against FOLDER only: each step against that of another checkout of this project, both in
  processes of their own. Goal 1.03: no slower.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.device.setup import Case, Place, bare_step, moco_step
from benchmarks.harness import Row, at_most, finish
from moco_ray.config.model import ModelConfig
from moco_ray.core.encoders import build_backbone, momentum_update

NUM_GROUPS = 8
_ROOT = Path(__file__).resolve().parents[1]
_CPU = Place(device=torch.device("cpu"), is_tiny=False)
_RESNET18 = Case(arch="resnet18", batch_size=32, px=64, queue_size=65536, goal=1.03)
_RESNET50 = Case(arch="resnet50", batch_size=16, px=96, queue_size=65536, goal=1.03)
_CIFAR = Case(arch="resnet18", batch_size=64, px=32, queue_size=4096, stem="cifar", goal=1.015)
_CASES = (_RESNET18, _RESNET50, _CIFAR)

# A line to its input makes it take a step, and it answers with the seconds. moco_ray is that of the checkout, and all
# that builds the step is ours.
_TAKE_TURNS = """
import json, sys, time
checkout, ours, case = sys.argv[1:]
sys.path.insert(0, checkout)
import moco_ray
assert moco_ray.__file__.startswith(checkout + "/"), moco_ray.__file__
sys.path[0] = ours
import torch
from benchmarks.device.setup import Case, Place, moco_step
from moco_ray.core.encoders import normalize

torch.set_num_threads(1)
step = moco_step(Case(**json.loads(case)), 1, Place(device=torch.device("cpu"), is_tiny=False))
if normalize(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.ones(3), torch.ones(3)).is_contiguous():
    step.func.__self__.method.to(memory_format=torch.contiguous_format)  # as it was trained before
print("ready", flush=True)
for _ in sys.stdin:
    start = time.process_time()
    step()
    print(time.process_time() - start, flush=True)
"""

Turn = Callable[[], float]
"""Does its work once and says how many seconds it took."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None, help="file for the figures")
    parser.add_argument("--repeats", type=int, default=15, help="runs of each side")
    parser.add_argument("--against", type=Path, default=None, help="another checkout, whose steps take turns with ours")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [step_row(case, 1, args.repeats) for case in _CASES]
    rows += [step_row(replace(case, goal=1.15), 1, args.repeats, torch.channels_last) for case in _CASES]
    rows += [step_row(replace(_CIFAR, goal=1.05), NUM_GROUPS, args.repeats), momentum_update_row(args.repeats)]
    if args.against is not None:
        rows += [before_row(case, args.against, args.repeats) for case in _CASES]
    finish(rows, args.json)


def step_row(case: Case, num_groups: int, repeats: int, layout: torch.memory_format = torch.contiguous_format) -> Row:
    ours, bare = timed(moco_step(case, num_groups, _CPU)), timed(bare_step(case, _CPU, layout=layout))
    kind = "bare backbones" if layout == torch.contiguous_format else "channels-last bare backbones"
    name = f"step {_name(case)}{f' in {num_groups} groups' if num_groups > 1 else ''} against {kind}"
    return ratio_row(name, case.goal, ours, bare, repeats)


def momentum_update_row(repeats: int) -> Row:
    query = build_backbone(ModelConfig(arch="resnet50"))
    key = copy.deepcopy(query)
    ours = timed(lambda: momentum_update(key, query, 0.999))
    theirs = timed(lambda: reference_momentum_update(key, query, 0.999))
    return ratio_row("momentum_update resnet50 against loop over tensors", 1.0, ours, theirs, repeats)


def reference_momentum_update(key_encoder: nn.Module, query_encoder: nn.Module, momentum: float) -> None:
    for k, q in zip(key_encoder.parameters(), query_encoder.parameters(), strict=True):
        k.data = k.data * momentum + q.data * (1.0 - momentum)


def before_row(case: Case, checkout: Path, repeats: int) -> Row:
    with steps_of(_ROOT, case) as ours, steps_of(checkout, case) as theirs:
        return ratio_row(f"step {_name(case)} against before", 1.03, ours, theirs, repeats)


@contextmanager
def steps_of(checkout: Path, case: Case) -> Iterator[Turn]:
    """Steps of the code of a checkout, in a process that lives as long as the context."""
    command = [sys.executable, "-c", _TAKE_TURNS, str(checkout.resolve()), str(_ROOT), json.dumps(asdict(case))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None and answers is not None
        if answers.readline() != "ready\n":
            sys.exit(f"the step of {checkout} does not run: its error is above")

        def turn() -> float:
            requests.write("\n")
            return float(answers.readline())

        yield turn


def timed(work: Callable[[], object]) -> Turn:
    def turn() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return turn


def ratio_row(case: str, goal: float, ours: Turn, theirs: Turn, repeats: int) -> Row:
    """Both in turns; the goal is the largest good ratio of our time to theirs."""
    for _ in range(2):  # allocators, algorithm choices, and the optimizer's state
        ours(), theirs()
    seconds = [(ours(), theirs()) for _ in range(repeats)]
    value, baseline = (statistics.median(side) for side in zip(*seconds, strict=True))
    return at_most(case, value, baseline, "s", goal)


def _name(case: Case) -> str:
    stem = "" if case.stem == "imagenet" else f", {case.stem} stem"
    return f"{case.name}{stem}, queue {case.queue_size:,}"


if __name__ == "__main__":
    main()
