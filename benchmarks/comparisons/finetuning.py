"""Four classes of photos, a ResNet and a ViT, each from scratch and from MoCo: python -m benchmarks.comparisons.finetuning.

    python -m benchmarks.comparisons.finetuning --data FOLDER --classes a,b,c,d [--size full] --plot docs/comparisons/finetuning.png

FOLDER holds train/ and val/ (or test/), with a sub-folder for each class. Each network is pretrained once on all
photos of train/, without their labels, and then fine-tuned on those of the four classes, 50 epochs, with three seeds: of
the head, the order and the crops; from scratch also of the weights. The small size is for two cores: networks of 0.4 and
2.8 million weights on 64 pixels. The full one is for a GPU: ResNet-50 and ViT-S/16 on 224 pixels, presets finetune and
finetune-vit.

There is no goal: what comes out is published. Oscillation is the mean change of accuracy from one epoch to the next over the
last half of the training, in points; it is measured once an epoch, as near as whole steps come.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.comparisons.plots import Point, save_line_panels
from benchmarks.harness import at_least, finish
from moco_ray import Config, load_preset, pretrain
from moco_ray.config.data import DataConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.config.run import RunConfig
from moco_ray.config.transfer_presets import crops, finetune, finetune_vit
from moco_ray.config.views import v2_views
from moco_ray.driver.run import train
from moco_ray.tasks.supervised import FINE_TUNING

EPOCHS, SEEDS = 50, 3
_NETWORKS = ("ResNet", "ViT")
_STARTS = ("scratch", "MoCo")
_EPOCHS = {("small", "ResNet"): 100, ("small", "ViT"): 40, ("full", "ResNet"): 800, ("full", "ViT"): 800}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    data: str
    classes: tuple[str, ...]
    size: str
    epochs: int
    pretraining_epochs: int | None
    seeds: int
    runs: str
    json: str | None
    plot: str | None


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a network came to, from one start."""

    curves: np.ndarray
    """(seeds, epochs) accuracy after each epoch, in percent."""
    epochs: tuple[float, ...]
    """Of the columns."""

    @property
    def last(self) -> list[float]:
        """Accuracy at the end, one a seed."""
        return [float(value) for value in self.curves[:, -1]]

    @property
    def oscillation(self) -> float:
        """Mean change from epoch to epoch over the last half, in points."""
        half = self.curves[:, self.curves.shape[1] // 2 :]
        return float(np.abs(np.diff(half, axis=1)).mean())


def parse(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of photos with train/ and val/ or test/")
    parser.add_argument("--classes", required=True, help="four classes, as a,b,c,d")
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument(
        "--pretraining-epochs",
        type=int,
        default=None,
        help="100 of the small ResNet, 40 of the small ViT, 800 of the full size",
    )
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--runs", default=None, help="folder for the trainings, to go on after an interruption")
    parser.add_argument("--json", default=None, help="file for the figures")
    parser.add_argument("--plot", default=None, help="file for the plot, a PNG")
    args = vars(parser.parse_args(arguments))
    args["classes"] = tuple(args["classes"].split(","))
    args["runs"] = args["runs"] or tempfile.mkdtemp(prefix="finetuning-")
    return Options(**args)


def pretraining(network: str, options: Options) -> Config:
    """MoCo v2 for a ResNet, v3 for a ViT, on all photos."""
    if options.size == "full":
        base = load_preset("moco-v2" if network == "ResNet" else "moco-v3-vit-small")
        base = replace(base, optim=replace(base.optim, global_batch_size=256, bn_groups=8, schedule_per="step"))
        if isinstance(base.method, MoCoConfig):
            base = replace(base, method=replace(base.method, queue_size=None, encoder_momentum=0.99))
    elif network == "ResNet":
        base = Config(
            views=v2_views(crop_px=64),
            model=ModelConfig(arch="tiny_resnet"),
            method=MoCoConfig(queue_size=None, encoder_momentum=0.99),
            optim=OptimConfig(global_batch_size=128, bn_groups=4, lr=0.06, schedule_per="step"),
        )
    else:
        base = load_preset("moco-v3-vit-mini")
        base = replace(
            base,
            views=replace(base.views, crop_px=64),
            model=replace(base.model, patch_px=16),
            optim=replace(base.optim, global_batch_size=128, bn_groups=4, lr=1.5e-3, warmup_epochs=10),
        )
    return replace(
        base,
        data=DataConfig(uri=options.data),
        optim=replace(base.optim, epochs=options.pretraining_epochs or _EPOCHS[options.size, network]),
        run=RunConfig(storage_path=options.runs, name=f"{network}-pretraining", num_workers=_workers(options)),
    )


def finetuning(network: str, start: str, seed: int, options: Options) -> Config:
    """Fine-tuning on the four classes, measured about once an epoch."""
    base = finetune() if network == "ResNet" else finetune_vit()
    model = pretraining(network, options).model
    views = crops(crop_px=64 if options.size == "small" else 224, crop_min=0.2)
    return replace(
        base,
        data=DataConfig(uri=options.data, classes=options.classes),
        views=views,
        model=replace(
            base.model,
            arch=model.arch,
            patch_px=model.patch_px,
            init=f"{options.runs}/{network}-pretraining" if start == "MoCo" else None,
        ),
        optim=replace(base.optim, epochs=options.epochs),
        eval=replace(base.eval, every_steps=max(1, round(_images(options) / base.optim.global_batch_size))),
        run=RunConfig(
            storage_path=options.runs, name=f"{network}-{start}-{seed}", seed=seed, num_workers=_workers(options)
        ),
    )


def _images(options: Options) -> int:
    """Photos of the four classes to train on."""
    return sum(len(list(Path(options.data, "train", name).iterdir())) for name in options.classes)


def _workers(options: Options) -> int | None:
    return 0 if options.size == "small" else None


def measure(network: str, start: str, options: Options) -> Case:
    """Fine-tune with each seed."""
    curves, epochs = [], ()
    for seed in range(options.seeds):
        config = finetuning(network, start, seed, options)
        print(f"{network} from {start}, seed {seed}", flush=True)
        result = train(FINE_TUNING, config, say=lambda line: print(f"  {line}", flush=True))
        lines = [json.loads(line) for line in Path(result.folder, "eval.jsonl").read_text().splitlines()]
        curves.append([line["eval/top1"] for line in lines])
        epochs = tuple(line["step"] * config.optim.global_batch_size / _images(options) for line in lines)
    return Case(curves=np.array(curves), epochs=epochs)


def table(cases: dict[tuple[str, str], Case]) -> str:
    """The cases as a table of Markdown."""
    lines = ["| network | start | accuracy, % | best epoch, % | after 10 epochs, % | oscillation, points |"]
    lines.append("|---|---|---|---|---|---|")
    for (network, start), case in cases.items():
        spread = statistics.stdev(case.last) if len(case.last) > 1 else 0.0
        tenth = case.curves[:, int(np.argmin(np.abs(np.array(case.epochs) - 10)))].mean()
        lines.append(
            f"| {network} | {start} | {statistics.fmean(case.last):.1f} ± {spread:.1f} | {case.curves.max(axis=1).mean():.1f} | "
            f"{tenth:.1f} | {case.oscillation:.1f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    for network in _NETWORKS:
        pretrain(pretraining(network, options), say=lambda line: print(f"  {line}", flush=True))
    cases = {(n, start): measure(n, start, options) for n in _NETWORKS for start in _STARTS}
    print(table(cases))
    if options.plot:
        panels = {
            network: {
                f"from {start}": [
                    Point(epoch, float(values.mean()), float(values.std()))
                    for epoch, values in zip(cases[network, start].epochs, cases[network, start].curves.T, strict=True)
                ]
                for start in _STARTS
            }
            for network in _NETWORKS
        }
        save_line_panels(options.plot, panels, x_label="epoch")
    rows = []
    for network in _NETWORKS:
        scratch, moco = (cases[network, start] for start in _STARTS)
        accuracy = (statistics.fmean(moco.last), statistics.fmean(scratch.last))
        rows.append(at_least(f"{network}, accuracy: MoCo against scratch", *accuracy, "%", is_judged=False))
        swing = (moco.oscillation, scratch.oscillation or 1e-9)  # a few steps may change nothing
        rows.append(at_least(f"{network}, oscillation: MoCo against scratch", *swing, "points", is_judged=False))
    finish(rows, options.json)


if __name__ == "__main__":
    main()
