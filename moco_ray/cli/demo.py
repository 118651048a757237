"""Pretrain on handwritten digits that a package ships, and show what was learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from moco_ray.cli.command import run_command
from moco_ray.cli.output import outlive_output
from moco_ray.config import Config
from moco_ray.config.data import DataConfig
from moco_ray.config.eval import EvalConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.config.programs import spoken
from moco_ray.config.run import RunConfig
from moco_ray.config.views import v2_views


def demo_config(images: Path, storage_path: str) -> Config:
    """A tiny ResNet on 28-pixel digits with two workers, for a minute of two CPU cores.

    Digits are no photos: they are neither mirrored nor cropped to a fifth, and colour tells nothing.
    """
    return Config(
        preset="demo",
        data=DataConfig(uri=str(images / "train")),
        views=replace(v2_views(crop_px=32), crop_min=0.4, flip_p=0.0, grayscale_p=0.0, jitter_p=0.5, blur_p=(0.2, 0.2)),
        model=ModelConfig(arch="tiny_resnet"),
        method=MoCoConfig(queue_size=1024, encoder_momentum=0.99, temperature=0.2),
        optim=OptimConfig(global_batch_size=256, bn_groups=8, lr=0.06, epochs=20, schedule_per="step"),
        eval=EvalConfig(uri=str(images / "test"), k=20, every_steps=60),
        run=RunConfig(storage_path=storage_path, num_workers=2),
    )


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Pretrain on 4,000 handwritten digits with two workers, and show how kNN does on 1,000 others before and after."""

    storage_path: Annotated[str, tyro.conf.arg(name="run.storage-path")] = "runs"
    """Where the digits and the run go."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo in a terminal; returns the exit code."""
    given = tyro.cli(Arguments, args=arguments, prog=spoken("demo"))
    return run_command(lambda: _demo_on_screen(given.storage_path), stopped="stopped")


def _demo_on_screen(storage_path: str) -> None:
    from moco_ray.cli.screen import Screen  # here, because it takes a while to import

    outlive_output()
    with Screen() as say:
        demo(storage_path, say=say)


def demo(storage_path: str = "runs", *, say: Callable[[str], None] = print) -> None:
    """Write the digits, pretrain on them without their labels, and say how kNN did before and after."""
    from moco_ray.data.sample import write_digits  # here, because these take seconds to import
    from moco_ray.driver.run import pretrain

    say("writing 5,000 handwritten digits as PNG files")
    images = write_digits(Path(storage_path).expanduser() / "digits")
    result = pretrain(demo_config(images.resolve(), storage_path), say=say)
    lines = [json.loads(line) for line in (Path(result.folder) / "eval.jsonl").read_text().splitlines()]
    before, after, error = lines[0]["eval/knn_top1"], lines[-1]["eval/knn_top1"], lines[-1]["eval/knn_error"]
    say("")
    say(
        f"kNN on 1,000 digits it never saw: {before:.1f} % before, {after:.1f} ± {error:.1f} % after pretraining without labels"
    )
    say("guessing among ten digits gives 10 %")
    say(f"look at {result.folder}/report/index.html")
