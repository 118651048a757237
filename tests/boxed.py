"""Small sets of images with boxes, as Pascal VOC has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from moco_ray.config import Config
from moco_ray.config.data import DataConfig
from moco_ray.config.detection import DetectionConfig
from moco_ray.config.eval import EvalConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.config.run import RunConfig

SIDE = 96
SMALL = DetectionConfig(
    min_px=(SIDE,),
    max_px=SIDE,
    test_px=SIDE,
    anchor_px=(16, 32),
    proposals=40,
    anchors_per_image=32,
    regions_per_image=16,
    max_boxes=8,
)


def write_shapes(folder: Path, num_train: int, num_test: int, *, is_shuffled: bool = False) -> Path:
    """Red discs and blue squares on noise, one to three an image; shuffled: with the boxes of another image."""
    random = np.random.default_rng(0)
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    objects = [_draw(folder / "JPEGImages" / f"{i}.png", random) for i in range(num_train + num_test)]
    if is_shuffled:
        objects = objects[1:num_train] + objects[:1] + objects[num_train:]
    for i, own in enumerate(objects):
        (folder / "Annotations" / f"{i}.xml").write_text(f"<annotation>{own}</annotation>")
    for name, rows in (("trainval", range(num_train)), ("test", range(num_train, num_train + num_test))):
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{row}\n" for row in rows))
    return folder


def _draw(path: Path, random: np.random.Generator) -> str:
    image = Image.fromarray(random.integers(90, 160, (SIDE, SIDE, 3), dtype=np.uint8))
    draw, objects = ImageDraw.Draw(image), ""
    for row in random.permutation(4)[: random.integers(1, 4)]:  # in quarters, so that none hides another
        side = int(random.integers(18, 40))
        left, top = (48 * corner + int(random.integers(0, 48 - side)) for corner in divmod(int(row), 2))
        is_disc = bool(random.integers(2))
        shape = (left, top, left + side - 1, top + side - 1)
        if is_disc:
            draw.ellipse(shape, fill=(220, 40, 40))
        else:
            draw.rectangle(shape, fill=(40, 40, 220))
        sides = zip(("xmin", "ymin", "xmax", "ymax"), (left + 1, top + 1, left + side, top + side), strict=True)
        corners = "".join(f"<{name}>{value}</{name}>" for name, value in sides)
        name = "disc" if is_disc else "square"
        objects += f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>"
    image.save(path)
    return objects


def shapes_config(uri: Path, storage_path: Path, *, lr: float = 0.64, epochs: int = 3, **run: Any) -> Config:
    """Float64, four groups of two images; trains in this process by default."""
    values = {"storage_path": str(storage_path), "dtype": "float64", "num_workers": 0, "name": "run", **run}
    return Config(
        task="detection",
        preset="detect-small",
        data=DataConfig(uri=str(uri)),
        model=ModelConfig(arch="tiny_resnet"),
        detection=SMALL,
        optim=OptimConfig(
            global_batch_size=8, bn_groups=4, epochs=epochs, lr=lr, schedule_per="step", warmup_epochs=0.5
        ),
        eval=EvalConfig(max_queries=1000, max_time_fraction=1.0, every_steps=1000),
        run=RunConfig(**values),
    )
