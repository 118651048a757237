"""What a step costs beside the backbones that no MoCo can do without: time, kernels, waits, copies and memory."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.device.setup import (
    TINY,
    Case,
    Place,
    bare_step,
    learner_of,
    moco_learner,
    moco_step,
    random_images,
    resident,
    seconds_a_step,
    standardised,
)
from benchmarks.harness import Row, at_most
from moco_ray.config.methods.moco_v3 import MoCoV3Config
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.core.batch import resident_batch
from moco_ray.core.encoders import build_encoder, key_encoder_of
from moco_ray.core.info_nce import info_nce_of_negatives

_SMALL_US = 4.0  # kernels below this are launched about as fast as they run
_RESNET50 = Case(arch="resnet50", batch_size=256, px=224, queue_size=65536, steps=15, goal=0.97)
_RESNET18 = Case(arch="resnet18", batch_size=512, px=32, queue_size=4096, stem="cifar", steps=40, goal=0.95)
_CASES = [_RESNET50, replace(_RESNET50, batch_size=32, steps=40, goal=0.90), _RESNET18]
_VIT_GOAL = 0.97


def step(place: Place) -> list[Row]:
    """A whole training step against bare backbones, in one and in eight BatchNorm groups; v3's with a ViT."""
    rows = []
    for case in [TINY] if place.is_tiny else _CASES:
        bare = bare_step(case, place)
        for num_groups in (1, 8):
            runs = {"ours": moco_step(case, num_groups, place), "bare": bare}
            rows.append(_share(f"{case.name}, {num_groups} groups", runs, case.steps, case.goal, place))
    return [*rows, _vit_step(place)]


def _vit_step(place: Place) -> Row:
    n, arch, px = (8, "vit_mini", 32) if place.is_tiny else (256, "vit_small", 224)
    model = ModelConfig(arch=arch, patch_px=px // 4 if place.is_tiny else 16, projector="mlp-bn", projector_layers=3)
    model = replace(model, hidden_dim=64 if place.is_tiny else 4096, dim=256)
    case = Case(arch=arch, batch_size=n, px=px)
    encoder = build_encoder(model, px)
    bare_query = copy.deepcopy(encoder).to(place.device)
    bare_key = key_encoder_of(bare_query)
    optimizer = torch.optim.AdamW([p for p in bare_query.backbone.parameters() if p.requires_grad], lr=1e-4)
    x = standardised(case, place)

    def bare() -> None:
        optimizer.zero_grad()
        with torch.autocast(place.device.type, dtype=place.autocast, enabled=place.is_cuda):
            with torch.no_grad():
                bare_key.backbone(x), bare_key.backbone(x)
            total = bare_query.backbone(x).float().sum() + bare_query.backbone(x).float().sum()
        total.backward()
        optimizer.step()

    optim = OptimConfig(optimizer="adamw", lr=1e-4, global_batch_size=n)
    learner = learner_of(encoder, model, MoCoV3Config(), optim, place, autocast=place.autocast)
    images = random_images(case, place)
    batch = resident_batch(images, images.flip(2), np.arange(n), step=0, seed=0, num_groups=1, shuffle_bn=False)
    runs = {"ours": lambda: learner.step(batch, lr=1e-4), "bare": bare}
    row = _share(f"v3 {arch} {px} px batch {n}", runs, 1 if place.is_tiny else 10, _VIT_GOAL, place)
    assert learner.micro_batches.groups >= n, "memory ran out, and the batch was cut"
    return row


def _share(case: str, runs: dict[str, Callable[[], object]], steps: int, goal: float, place: Place) -> Row:
    seconds = seconds_a_step(runs, steps, place)
    share = seconds["bare"] / seconds["ours"]
    goal = 0.0 if place.is_tiny else goal
    return Row(
        case=f"step of {case}: share of the bare backbones' speed",
        value=1e3 * seconds["ours"],
        unit="ms",
        baseline=1e3 * seconds["bare"],
        ratio=share,
        goal=goal,
        passed=share >= goal,
    )


def kernels(place: Place) -> list[Row]:
    """Kernels, copies and memsets of a step on the device (on a CPU, operators) against those of the bare backbones."""
    rows = []
    for case in [TINY] if place.is_tiny else [_RESNET50, _RESNET18]:
        bare, bare_small, bare_ms = _launches(bare_step(case, place), place)
        print(f"  {case.name}, bare: {bare:,}, of which {bare_small:,} below {_SMALL_US:g} us, busy {bare_ms:.1f} ms")
        for num_groups, goal in ((1, 1.9), (8, 2.5)):
            count, small, busy_ms = _launches(moco_step(case, num_groups, place), place)
            print(f"  {num_groups} groups: {count:,}, of which {small:,} below {_SMALL_US:g} us, busy {busy_ms:.1f} ms")
            what = f"kernels of a step of {case.name}, {num_groups} groups, against the bare backbones'"
            rows.append(at_most(what, count, bare, "kernels", goal, is_judged=not place.is_tiny))
    return rows


def _launches(run: Callable[[], object], place: Place) -> tuple[int, int, float]:
    """Of one step: how many kernels, how many of them are small, and milliseconds in which they run."""
    run(), run(), place.wait()
    with profile(activities=[ProfilerActivity.CUDA if place.is_cuda else ProfilerActivity.CPU]) as found:
        run(), place.wait()
    if place.is_cuda:
        us = [event.device_time for event in found.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    else:
        us = [event.self_cpu_time_total for event in found.events() if event.name.startswith("aten::")]
    return len(us), sum(time_us < _SMALL_US for time_us in us), sum(us) / 1e3


def syncs(place: Place) -> list[Row]:
    """Lines of a step in which the host waits for the device: none."""
    if not place.is_cuda:
        print("  there is no device to wait for")
        return []
    from benchmarks.device.correct import METHODS, tiny_batch, tiny_learner

    rows = []
    cases = [(name, "sgd", None) for name in METHODS] + [
        ("moco", "lars", None),
        ("moco", "adamw", 3),
        ("moco-v3", "adamw", None),
    ]
    for name, optimizer, micro in cases:
        config = METHODS[name]
        learner = tiny_learner(config, place, optimizer, micro, dtype=torch.float32)
        batches = [tiny_batch(config, number).to(place.device) for number in range(2)]
        learner.step(batches[0], lr=0.1)
        place.wait()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                learner.step(batches[1], lr=0.1)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = sorted({f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)})
        case = f"{name}, {optimizer}{', micro-batches' * (micro is not None)}"
        if places:
            print(f"  {case} waits at {', '.join(places)}")
        count = len(places)
        rows.append(
            Row(
                case=f"waits in a step of {case}",
                value=count,
                unit="lines",
                baseline=0,
                ratio=count,
                goal=0,
                passed=not count,
            )
        )
    return rows


def h2d(place: Place) -> list[Row]:
    """A step whose batch comes from page-locked memory each time, against one whose batch lies on the device."""
    if not place.is_cuda:
        print("  there is no device to copy to")
        return []
    case = _RESNET50
    learner, batch = moco_learner(case, 8, place), resident(case, 8, place)
    host = replace(batch, arrays={name: array.cpu().pin_memory() for name, array in batch.arrays.items()})
    copies = torch.cuda.Stream(place.device)
    runs = {
        "resident": lambda: learner.step(batch, lr=0.01),
        "in line": lambda: learner.step(host.to(place.device), lr=0.01),
        "beside": lambda: learner.step(host.to(place.device, copies), lr=0.01),
    }
    ms = {name: 1e3 * seconds for name, seconds in seconds_a_step(runs, case.steps, place).items()}
    print(f"  copied in line: {ms['in line']:.2f} ms, beside the step before: {ms['beside']:.2f} ms")
    what = f"step of {case.name} with its copy beside the step before, against images on the device"
    return [at_most(what, ms["beside"], ms["resident"], "ms", 1.01)]


def oom(place: Place) -> list[Row]:
    """A batch for which there is no room: cut until it fits, with the loss of the whole batch."""
    if not place.is_cuda:
        print("  there is no device whose memory could run out")
        return []
    case = _RESNET50
    losses = {}
    for name, room in (("whole", None), ("cut", 14 * 2**30)):
        held = _hold_all_but(room, place) if room else None
        learner = moco_learner(case, 8, place)
        batch = resident(case, 8, place)
        losses[name] = [float(learner.step(batch, lr=0.01).values()["train/loss"]) for _ in range(3)]
        groups = learner.micro_batches.groups
        print(f"  {name}: micro-batches of {groups if groups < 8 else 'all'} groups, losses {losses[name]}")
        del held, learner, batch
        torch.cuda.empty_cache()
    difference = max(abs(a - b) / abs(a) for a, b in zip(losses["whole"], losses["cut"], strict=True))
    passed = groups < 8 and difference < 0.02  # bfloat16
    return [
        Row(
            case="relative difference of losses where memory runs out",
            value=difference,
            unit="relative difference",
            baseline=0.02,
            ratio=difference / 0.02,
            goal=1.0,
            passed=passed,
        )
    ]


def _hold_all_but(room: int, place: Place) -> torch.Tensor:
    free, _ = torch.cuda.mem_get_info(place.device)
    return torch.empty(max(0, free - room), dtype=torch.uint8, device=place.device)


def loss(place: Place) -> list[Row]:
    """InfoNCE forward and backward as it is, against a form that is compiled."""
    n, k = (8, 64) if place.is_tiny else (256, 65536)
    generator = torch.Generator().manual_seed(0)
    unit = [F.normalize(torch.randn(m, 128, generator=generator), dim=1).to(place.device) for m in (n, n, k)]
    q, key, queue = unit
    q.requires_grad_()

    def total() -> torch.Tensor:
        return info_nce_of_negatives(q, key, queue, 0.2).total

    def fused() -> torch.Tensor:
        scaled = q / 0.2
        positive, negative = (scaled * key).sum(dim=1), scaled @ queue.T
        return (torch.logaddexp(positive, negative.logsumexp(dim=1)) - positive).sum()

    torch.testing.assert_close(total(), fused(), rtol=1e-4, atol=1e-3)

    def run(value: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def backward() -> None:
            q.grad = None
            value().backward()

        return backward

    best = torch.compile(fused) if place.is_cuda else fused
    seconds = seconds_a_step({"ours": run(total), "best": run(best)}, 1 if place.is_tiny else 20, place)
    ms = {name: 1e3 * value for name, value in seconds.items()}
    what = f"InfoNCE of {n} queries and {k:,} keys against its compiled form"
    return [at_most(what, ms["ours"], ms["best"], "ms", 3.0, is_judged=not place.is_tiny)]


def compiled(place: Place) -> list[Row]:
    """A step with both encoders compiled against compiled bare backbones."""
    rows = []
    for case, num_groups in [(TINY, 1)] if place.is_tiny else [(_RESNET18, 8)]:
        bare = bare_step(case, place, is_compiled=True)
        runs = {"ours": moco_step(case, num_groups, place, is_compiled=True), "bare": bare}
        rows.append(_share(f"{case.name}, {num_groups} groups, compiled", runs, case.steps, case.goal, place))
    return rows
