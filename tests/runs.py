"""Small runs for tests: real images, a tiny network, everything else as in production."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moco_ray.config import Config
from moco_ray.config.data import DataConfig
from moco_ray.config.eval import EvalConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.config.run import RunConfig
from moco_ray.config.views import v2_views
from moco_ray.core.hashing import rows_digest
from moco_ray.data.sample import write_digits
from moco_ray.worker.background import BackgroundWriter


def write_images(folder: Path, num_images: int) -> Path:
    """`num_images` sample digits of ten classes in turn, as colour PNGs."""
    digits = write_digits(folder / "all")
    by_class = [sorted(folder.iterdir()) for folder in sorted((digits / "train").iterdir())]
    in_turn = [path for paths in zip(*by_class, strict=True) for path in paths]
    for path in in_turn[:num_images]:
        image = np.asarray(Image.open(path).convert("RGB"))
        target = folder / "images" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(target)
    return folder / "images"


def tiny_config(uri: str | Path, storage_path: str | Path, **run: Any) -> Config:
    """Float64, 8 BatchNorm groups of 3, a queue that wraps in mid-batch; trains in this process by default."""
    return Config(
        preset="smoke",
        data=DataConfig(uri=str(uri)),
        views=v2_views(crop_px=32),
        model=ModelConfig(arch="tiny_resnet", dim=16),
        method=MoCoConfig(queue_size=80, encoder_momentum=0.9),
        optim=OptimConfig(global_batch_size=24, bn_groups=8, epochs=3, lr=0.1, schedule_per="step"),
        eval=EvalConfig(max_queries=20, max_bank=100, every_steps=1000),
        run=replace(RunConfig(storage_path=str(storage_path), dtype="float64", num_workers=0, name="run"), **run),
    )


@contextmanager
def punctual_checkpoints() -> Iterator[None]:
    """Let training wait for the checkpoint before one that is due; a run postpones the one that is due instead."""

    def is_busy(writer: BackgroundWriter) -> bool:
        if writer._thread is not None:
            writer._thread.join()
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BackgroundWriter, "is_busy", property(is_busy))
        yield


def metrics(folder: str | Path) -> list[dict[str, Any]]:
    """Lines of a finished run's metrics.jsonl."""
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def losses(folder: str | Path) -> np.ndarray:
    """train/loss of every step."""
    return np.array([line["train/loss"] for line in metrics(folder)])


def digests(folder: str | Path) -> list[int]:
    """rows_digest of every step."""
    return [line["rows_digest"] for line in metrics(folder)]


def digest_of_whole_epochs(rows: np.ndarray, epochs: int) -> int:
    """The digest of seeing each row once an epoch."""
    return sum(rows_digest(rows) for _ in range(epochs)) % 2**64
