"""How far the queue's keys have drifted: python -m benchmarks.comparisons.consistency [--data FOLDER --eval FOLDER].

After a training at a constant rate, half as long as the others, every key of the queue is encoded again by the key
encoder as it is now: the same view of the same image in the same BatchNorm groups, so that a key of the last step is
itself (cosine 1). The table compares the oldest keys; "strangers" are keys of other images of the same step, whose cosine is
what no consistency at all would give.

Claim (He et al. 2020, arXiv:1911.05722, Sec. 3.2 and 4.1): a slowly moving key encoder keeps the queue consistent; without
momentum training fails (linear top-1: m 0 fails, 0.9 55.2, 0.99 57.8, 0.999 59.0). Goal: the oldest keys of a larger m
agree at least as well as those of the next smaller one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.comparisons.common import Options, describe, parse, run_folder, setting, train
from benchmarks.comparisons.plots import Point, save_line_panels
from benchmarks.harness import Row, finish
from moco_ray import Config, load_preset
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.core.batch import Batch
from moco_ray.core.encoders import build_encoder, normalize
from moco_ray.core.group_batch_norm import use_group_batch_norm
from moco_ray.core.methods.moco import MoCo
from moco_ray.data.manifest import Manifest
from moco_ray.data.segments import local_segment
from moco_ray.data.stream import Stream
from moco_ray.driver.images.listing import make_source
from moco_ray.driver.plan import stream_spec
from moco_ray.run_folder.checkpoint import checkpoint_name
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.tasks.pretraining import PRETRAINING

MOMENTA = (0.0, 0.9, 0.99, 0.999)
_AGES = 32  # steps of keys that the queue holds


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Keys of one age against what they would be now."""

    age: int
    """Steps since they were encoded."""
    cosine: float
    """Mean cosine of a key and itself encoded again."""
    strangers: float
    """Mean cosine of a key and the keys of other images, encoded again."""


def case(base: Config, momentum: float) -> Config:
    assert base.run.max_steps is not None
    size = _AGES * base.optim.global_batch_size
    return replace(
        base,
        method=replace(base.method, encoder_momentum=momentum, queue_size=size),
        optim=replace(base.optim, schedule="constant"),
        eval=replace(base.eval, max_queries=1000, max_bank=2000),
        run=replace(base.run, max_steps=max(1, base.run.max_steps // 2)),
    )


def agreements(folder: str) -> Iterator[Agreement]:
    """Compare every key in the queue of a run with the same key encoded again, oldest first."""
    storage = Storage.open(folder, StorageOptions({}))
    config = load_preset(storage.join("config.json"))
    steps = config.run.max_steps
    assert steps is not None
    moco = trained_moco(config, f"{folder}/{checkpoint_name(steps)}/state.pt")
    mean, std = (torch.tensor(values) for values in (config.views.mean, config.views.std))

    def encode(module: nn.Module, images: Tensor) -> Tensor:
        output: Tensor = module(normalize(images, mean, std))
        return output

    size = config.optim.global_batch_size
    for batch in batches(config, storage, max(0, steps - moco.queue.size // size), steps):
        with torch.no_grad():
            again = moco.encode_keys(batch, encode).enqueued  # (B, dim)
        slots = (batch.step * size + torch.arange(size)) % moco.queue.size
        cosines = moco.queue.keys[slots] @ again.T  # (B, B)
        own = cosines.diagonal().mean().item()
        others = (cosines.sum() - cosines.trace()).item() / (size * (size - 1))
        yield Agreement(age=steps - 1 - batch.step, cosine=own, strangers=others)


def trained_moco(config: Config, path: str) -> MoCo:
    """The method as a checkpoint holds it, in training mode, on the CPU."""
    assert isinstance(config.method, MoCoConfig)
    moco = MoCo(build_encoder(config.model, config.views.crop_px), config.method, torch.Generator())
    use_group_batch_norm(moco, config.optim.group_size)
    moco.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["method"])
    return moco.train()


def batches(config: Config, storage: Storage, first_step: int, last_step: int) -> Iterator[Batch]:
    """The batches that a run was trained on, again: the stream is a function of its positions."""
    source = make_source(config, Manifest.read(storage, storage.join("manifest.parquet")))
    spec = stream_spec(PRETRAINING, config)
    segment = partial(local_segment, spec, source)
    stream = Stream(spec=spec, first_step=first_step, last_step=last_step, rank=0, num_ranks=1, open_segment=segment)
    return (loaded.batch for loaded in stream)


def measure(config: Config, options: Options) -> list[Agreement]:
    """Of the training with seed 0."""
    return list(agreements(str(run_folder(config, 0, options))))


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(__doc__, arguments)
    configs = {m: case(setting(options), m) for m in MOMENTA}
    trained = {f"m = {m:g}": train(f"m = {m:g}", config, options) for m, config in configs.items()}
    found = {m: measure(config, options) for m, config in configs.items()}
    for m, ages in found.items():
        oldest, newest = ages[0], ages[-1]
        print(
            f"m = {m:g}: cosine {newest.cosine:.4f} at age {newest.age}, {oldest.cosine:.4f} at age {oldest.age}; strangers "
            f"{oldest.strangers:.4f}; kNN {trained[f'm = {m:g}'].knn:.1f} %"
        )
    rows = []
    for smaller, larger in itertools.pairwise(MOMENTA):
        ours, theirs = found[larger][0], found[smaller][0]
        rows.append(
            Row(
                case=f"m = {larger:g} against {smaller:g}, age {ours.age}",
                value=ours.cosine,
                unit="cosine",
                baseline=theirs.cosine,
                ratio=ours.cosine / theirs.cosine,
                goal=1.0,
                passed=ours.cosine >= theirs.cosine,
            )
        )
    describe(trained)
    if options.plot:
        panels = {
            "cosine of a key and itself now": {
                f"m = {m:g}": [Point(a.age, a.cosine) for a in ages] for m, ages in found.items()
            },
            "less that with strangers": {
                f"m = {m:g}": [Point(a.age, a.cosine - a.strangers) for a in ages] for m, ages in found.items()
            },
        }
        save_line_panels(options.plot, panels, x_label="age, steps")
    finish(rows, options.json)


if __name__ == "__main__":
    main()
