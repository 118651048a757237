"""The MoCo authors' CIFAR-10 demo with all images on the device: does what was built learn what it should?"""

from __future__ import annotations

import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.device.setup import Place, learner_of
from benchmarks.device.views import device_views
from benchmarks.harness import Row, at_least
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.config.views import cifar_views
from moco_ray.core.batch import Batch, key_permutation
from moco_ray.core.encoders import build_encoder, normalize
from moco_ray.core.step import Learner
from moco_ray.evaluate.knn import knn_top1

_NUM_GROUPS = 8
# kNN in percent after 200 epochs, one-way and symmetric: published 82.6 and 85.3, less what seeds differ by.
_GOALS = {False: 82.1, True: 85.0}
_EPOCHS_OF_GOALS = 200
_ENCODED_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class _Images:
    """Of one split, on the device."""

    pixels: Tensor
    """(n, 32, 32, 3) uint8."""
    labels: Tensor
    """(n,) int64."""


def cifar10(place: Place) -> list[Row]:
    """Train as the demo does (ResNet-18, batch 512 in 8 groups, queue 4,096) and classify by 200 neighbours."""
    train, test = (split for split in _load(place))
    n, size = len(train.pixels), 32 if place.is_tiny else 512
    epochs = 2 if place.is_tiny else place.epochs
    views = cifar_views()
    optim = OptimConfig(global_batch_size=size, bn_groups=_NUM_GROUPS, lr=0.03, weight_decay=5e-4, epochs=epochs)
    learner = _learner(optim, 128 if place.is_tiny else 4096, n, place)
    generator = torch.Generator(place.device).manual_seed(0)
    start, step, accuracy = time.perf_counter(), 0, 0.0
    for epoch in range(epochs):
        order = torch.randperm(n, generator=generator, device=place.device)
        for rows in order[: n // size * size].split(size):
            slots = key_permutation(0, step, size)
            images = train.pixels[rows]
            key = device_views(images, views, generator)
            batch = Batch(
                arrays={
                    "query": device_views(images, views, generator),
                    "key": key[torch.from_numpy(slots).to(place.device, non_blocking=True)],
                },
                rows=np.arange(size),
                indices=np.arange(size),
                step=step,
                groups=[list(range(_NUM_GROUPS))],
                group_size=size // _NUM_GROUPS,
                shuffle=slots,
            )
            result = learner.step(batch, lr=optim.lr_at(epoch * n, n))
            step += 1
        seconds = time.perf_counter() - start
        is_last = epoch == epochs - 1 or seconds > place.budget_s
        if epoch < 2 or epoch % 20 == 19 or is_last:
            accuracy = _knn(learner.method.query_encoder.backbone, train, test, place)
            loss = result.values()["train/loss"]
            print(
                f"  epoch {epoch + 1}/{epochs}: loss {loss:.3f}, kNN {accuracy:.2f} %, {seconds:.0f} s, "
                f"{step * size / seconds:,.0f} images/s",
                flush=True,
            )
        if is_last:
            break
    is_judged = epoch + 1 >= _EPOCHS_OF_GOALS and place.cifar is not None
    goal = _GOALS[place.symmetric] if is_judged else 0.0
    kind = "symmetric" if place.symmetric else "one-way"
    return [
        at_least(
            f"CIFAR-10 after {epoch + 1} epochs, {kind}: kNN on the test images", accuracy, 100.0, "%", goal / 100
        ),
        at_least("CIFAR-10: epochs within the time", epoch + 1, epochs, "epochs"),
    ]


def _learner(optim: OptimConfig, queue_size: int, num_images: int, place: Place) -> Learner:
    torch.manual_seed(0)
    arch, stem = ("tiny_resnet", "imagenet") if place.is_tiny else ("resnet18", "cifar")
    model, views = ModelConfig(arch=arch, stem=stem, projector="linear"), cifar_views()
    config = MoCoConfig(
        queue_size=queue_size, temperature=0.1, encoder_momentum=0.99, shuffle_bn=True, symmetric=place.symmetric
    )
    encoder = build_encoder(model, 32)
    options = {"mean": views.mean, "std": views.std, "autocast": place.autocast}
    return learner_of(encoder, model, config, optim, place, num_images=num_images, **options)


def _load(place: Place) -> list[_Images]:
    """Training and test images."""
    if place.cifar is None:
        random = np.random.default_rng(0)
        sizes = {"train": 96, "test": 32}
        found = {
            name: [(random.integers(0, 256, (32, 32, 3), dtype=np.uint8), i % 10) for i in range(m)]
            for name, m in sizes.items()
        }
        print("  no --cifar: random images")
    else:
        found = _read(place.cifar)
    return [
        _Images(
            pixels=torch.from_numpy(np.stack([image for image, _ in found[name]])).to(place.device),
            labels=torch.tensor([label for _, label in found[name]]).to(place.device),
        )
        for name in ("train", "test")
    ]


def _read(path: Path) -> dict[str, list[tuple[np.ndarray, int]]]:
    """Images and labels of each split of an archive of SPLIT/CLASS/NAME.jpg."""
    import cv2

    found: dict[str, list[tuple[np.ndarray, str]]] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".jpg"):
                split, label = member.name.split("/")[-3:-1]
                content = archive.extractfile(member)
                assert content is not None
                image = cv2.imdecode(np.frombuffer(content.read(), np.uint8), cv2.IMREAD_COLOR)
                assert image is not None, f"{member.name} does not decode"
                found.setdefault(split, []).append((image[..., ::-1].copy(), label))
    names = sorted({label for _, label in found["train"]})
    return {split: [(image, names.index(label)) for image, label in images] for split, images in found.items()}


@torch.inference_mode()
def _knn(backbone: nn.Module, train: _Images, test: _Images, place: Place) -> float:
    views = cifar_views()
    mean, std = (torch.tensor(values, device=place.device) for values in (views.mean, views.std))
    backbone.eval()
    with torch.autocast(place.device.type, dtype=place.autocast, enabled=place.is_cuda):
        bank, queries = (
            torch.cat([backbone(normalize(part, mean, std)).float() for part in images.pixels.split(_ENCODED_AT_ONCE)])
            for images in (train, test)
        )
    backbone.train()
    return knn_top1(bank, train.labels, queries, test.labels, num_classes=10)
