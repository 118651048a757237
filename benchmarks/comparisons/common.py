"""What the comparisons share: images, one small configuration, a training with its kNN, and the report."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.harness import Row, at_least
from benchmarks.photos import write_patches
from moco_ray import Config, load_preset, pretrain
from moco_ray.config import to_json
from moco_ray.config.data import DataConfig
from moco_ray.config.eval import EvalConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.config.run import RunConfig
from moco_ray.config.views import v2_views

_LAST_SHARE = 0.1  # of the steps, over which loss and contrast accuracy are averaged
_ONLY_AT_THE_ENDS = 10**9  # steps between evaluations


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line of a comparison."""

    data: str
    """Folder of training images, by class."""
    eval: str
    """Folder of labelled images to classify."""
    steps: int
    """Steps of 256 images (512 on CUDA); other batches see as many images."""
    seeds: int
    """Trainings of each case, with seeds 0, 1, ..."""
    runs: Path
    """Folder of the trainings; one that has ended is not done again."""
    json: str | None
    """File for the figures."""
    plot: str | None
    """File for the plot."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What one case came to, over its seeds."""

    knn: float
    """Percent, mean over the seeds."""
    random_knn: float
    """Percent, of the encoder before training."""
    contrast_accuracy: float
    """Percent of queries that find their key, over the last tenth of the training."""
    contrast_error: float
    """Its standard error in points, from how the steps differ."""
    loss: float
    """Mean over the last tenth of the training."""
    loss_error: float
    """Its standard error, likewise."""
    num_queries: int
    """Images classified, of one seed."""
    num_seeds: int
    """Trainings."""

    @property
    def error(self) -> float:
        """Standard error of knn in points, from the number of queries; how seeds differ comes on top."""
        share = self.knn / 100
        return 100 * math.sqrt(share * (1 - share) / self.num_queries)


def parse(doc: str | None, arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; without --data, patches of photos that packages ship are written and used."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=None, help="folder of training images, one sub-folder a class")
    parser.add_argument("--eval", default=None, help="folder of labelled images to classify, likewise")
    parser.add_argument("--steps", type=int, default=None, help="steps of each training")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each case")
    parser.add_argument("--runs", default=None, help="folder for the trainings, to go on after an interruption")
    parser.add_argument("--json", default=None, help="file for the figures")
    parser.add_argument("--plot", default=None, help="file for the plot, a PNG")
    args = parser.parse_args(arguments)
    if (args.data is None) != (args.eval is None):
        parser.error("--data and --eval go together: kNN classifies the images of one among those of the other")
    runs = Path(args.runs or tempfile.mkdtemp(prefix="comparisons-"))
    if args.data is None:
        photos = runs / "photos"
        if not photos.is_dir():
            write_patches(photos)
        args.data, args.eval = str(photos / "train"), str(photos / "test")
    steps = args.steps or (19_531 if torch.cuda.is_available() else 196)
    return Options(
        data=args.data, eval=args.eval, steps=steps, seeds=args.seeds, runs=runs, json=args.json, plot=args.plot
    )


def setting(options: Options) -> Config:
    """The training that a comparison changes one thing of: MoCo v2, all of it as small as the device asks for.

    On CUDA the CIFAR-10 preset with v2's head; on a CPU a tiny ResNet, and batches of 8 BatchNorm groups of 32 as
    MoCo's. The schedule falls to zero over the steps of the options.
    """
    if torch.cuda.is_available():
        base = load_preset("cifar10")
        base = replace(base, model=replace(base.model, projector="mlp"), method=replace(base.method, temperature=0.2))
    else:
        base = Config(
            views=v2_views(crop_px=32),
            model=ModelConfig(arch="tiny_resnet"),
            method=MoCoConfig(queue_size=4096, encoder_momentum=0.99),
            optim=OptimConfig(global_batch_size=256, bn_groups=8, lr=0.06),
        )
    return replace(
        base,
        preset="comparison",
        data=DataConfig(uri=options.data),
        optim=replace(base.optim, epochs=_epochs(options, base.optim.global_batch_size), schedule_per="step"),
        eval=EvalConfig(uri=options.eval, every_steps=_ONLY_AT_THE_ENDS, max_queries=5000, max_bank=5000),
        run=RunConfig(num_workers=0, max_steps=options.steps, log_every_steps=5),
    )


def with_batch(config: Config, batch_size: int) -> Config:
    """The same images in other batches, of BatchNorm groups of the same size."""
    assert config.run.max_steps is not None
    images = config.run.max_steps * config.optim.global_batch_size
    groups = max(1, batch_size // config.optim.group_size)
    return replace(
        config,
        optim=replace(config.optim, global_batch_size=batch_size, bn_groups=groups),
        run=replace(config.run, max_steps=math.ceil(images / batch_size)),
    )


def train(name: str, config: Config, options: Options) -> Trained:
    """Train a case through the job itself, once for each seed, unless that was done."""
    results = [_train(name, config, seed, options) for seed in range(options.seeds)]

    def mean(key: str) -> float:
        return statistics.fmean(result[key] for result in results)

    return Trained(
        knn=mean("knn"),
        random_knn=mean("random_knn"),
        contrast_accuracy=mean("contrast_accuracy"),
        contrast_error=mean("contrast_error") / math.sqrt(options.seeds),
        loss=mean("loss"),
        loss_error=mean("loss_error") / math.sqrt(options.seeds),
        num_queries=min(config.eval.max_queries, _count(options.eval)),
        num_seeds=options.seeds,
    )


def run_folder(config: Config, seed: int, options: Options) -> Path:
    """Where the training of a configuration lies, named by a digest of all that it is."""
    digest = hashlib.sha256(to_json(replace(config, run=replace(config.run, seed=seed))).encode()).hexdigest()
    return options.runs / digest[:16]


def knn_row(case: str, ours: float, peer: str, theirs: float) -> Row:
    """A kNN that the claim says is at least the peer's."""
    return at_least(f"{case} against {peer}", ours, theirs, "% kNN")


def describe(trained: Mapping[str, Trained]) -> None:
    """Say how sure the figures are."""
    one = next(iter(trained.values()))
    print(
        f"kNN of {one.num_queries:,} images, {one.num_seeds} training(s) a case: standard error {one.error:.1f} points "
        f"from the number of images; random encoder {one.random_knn:.1f} %"
    )


def _train(name: str, config: Config, seed: int, options: Options) -> dict[str, float]:
    folder = run_folder(config, seed, options)
    done = folder / "comparison.json"
    if not done.exists():
        print(f"{name}, seed {seed}: {folder}", flush=True)
        run = replace(config.run, seed=seed, storage_path=str(options.runs), name=folder.name)
        pretrain(replace(config, run=run), say=lambda line: print(f"  {line}", flush=True))
    values = _summarize(folder)
    done.write_text(json.dumps(values))
    print(f"{name}, seed {seed}: {json.dumps(values)}", flush=True)
    return values


def _summarize(folder: Path) -> dict[str, float]:
    evaluations = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["step"] >= (1 - _LAST_SHARE) * lines[-1]["step"]]
    accuracy = [line["train/contrast_accuracy"] for line in last if "train/contrast_accuracy" in line]
    loss = [line["train/loss"] for line in last]
    return {
        "random_knn": evaluations[0]["eval/knn_top1"],
        "knn": evaluations[-1]["eval/knn_top1"],
        "rankme": evaluations[-1]["eval/rankme"],
        "contrast_accuracy": statistics.fmean(accuracy),
        "contrast_error": _standard_error(accuracy),
        "loss": statistics.fmean(loss),
        "loss_error": _standard_error(loss),
    }


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _epochs(options: Options, batch_size: int) -> int:
    """Whole epochs nearest to the steps, over which the learning rate falls."""
    return max(1, round(options.steps * batch_size / _count(options.data)))


def _count(folder: str) -> int:
    return sum(path.is_file() for path in Path(folder).glob("*/*"))
