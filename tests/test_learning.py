"""Learning is real: pretraining lifts kNN above a random encoder and above the pixels themselves."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import moco_ray
from benchmarks.photos import write_patches
from moco_ray.config import Config
from moco_ray.config.data import DataConfig
from moco_ray.config.eval import EvalConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.config.run import RunConfig
from moco_ray.config.views import v2_views
from moco_ray.data.sources import build_manifest
from moco_ray.driver.run import pretrain
from moco_ray.evaluate.features import Features, ImageSet
from moco_ray.evaluate.knn import knn_top1
from moco_ray.evaluate.measure import features_of
from moco_ray.storage.storage import StorageOptions

CIFAR10 = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10_jpeg.tar.xz"


def _say(line: str) -> None:
    print(line, flush=True)


def _config(images: Path, storage: Path, epochs: int) -> Config:
    return Config(
        preset="learning",
        data=DataConfig(uri=str(images / "train")),
        views=v2_views(crop_px=32),
        model=ModelConfig(arch="tiny_resnet"),
        method=MoCoConfig(queue_size=1024, encoder_momentum=0.99),
        optim=OptimConfig(global_batch_size=256, bn_groups=8, lr=0.06, epochs=epochs, schedule_per="step"),
        eval=EvalConfig(uri=str(images / "test"), every_steps=10_000, k=200),
        run=RunConfig(storage_path=str(storage), num_workers=0, name="run"),
    )


def _knn(bank: torch.Tensor, bank_labels: torch.Tensor, queries: torch.Tensor, labels: torch.Tensor) -> float:
    return knn_top1(bank, bank_labels, queries, labels, num_classes=int(bank_labels.max()) + 1, k=200)


def _pixels(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Centred grey levels (N, H W 3) and labels of all images: the features of doing nothing."""
    images, labels = [], []
    for label, name in enumerate(sorted(path.name for path in folder.iterdir())):
        for path in sorted((folder / name).iterdir()):
            images.append(np.asarray(Image.open(path).convert("RGB"), dtype=np.float32).ravel())
            labels.append(label)
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)


def _raw_pixels_knn(images: Path) -> float:
    bank, bank_labels = _pixels(images / "train")
    queries, labels = _pixels(images / "test")
    mean = bank.mean(dim=0)
    return max(_knn(bank, bank_labels, queries, labels), _knn(bank - mean, bank_labels, queries - mean, labels))


def _features(encoder: str, folder: Path, config: Config) -> Features:
    manifest = build_manifest(DataConfig(uri=str(folder)), StorageOptions({}))
    rows = np.arange(len(manifest))
    images = ImageSet(
        manifest=manifest, rows=rows, labels=manifest.labels, options=StorageOptions({}), max_pixels=10**8
    )
    return features_of(moco_ray.load_encoder(encoder), images, config.views, config.eval)


@pytest.mark.slow
def test_pretraining_on_photos_beats_a_random_encoder_and_raw_pixels(tmp_path: Path) -> None:
    """About two minutes: 53 % before, 58 % after, 24 % on pixels, when it was written (57 and 60, 52 and 59 by seed)."""
    images = write_patches(tmp_path / "photos")
    config = _config(images, tmp_path, epochs=12)
    result = pretrain(config, say=_say)
    lines = [json.loads(line) for line in (Path(result.folder) / "eval.jsonl").read_text().splitlines()]
    before, after = lines[0]["eval/knn_top1"], lines[-1]["eval/knn_top1"]
    assert after > before + 3
    assert after > _raw_pixels_knn(images) + 15

    train, test = (_features(result.encoder, images / split, config) for split in ("train", "test"))
    assert abs(_knn(train.features, train.labels, test.features, test.labels) - after) < 0.5
    shuffled = train.labels[torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(0))]
    assert _knn(train.features, shuffled, test.features, test.labels) < 20  # 14 classes, the largest 9.5 %


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR10.exists(), reason="needs cifar10_jpeg.tar.xz in ../shared/data; the photos above do not")
def test_pretraining_on_cifar10_beats_a_random_encoder_and_raw_pixels(tmp_path: Path) -> None:
    """Five minutes on 10,000 images; the command and the figures are in docs/evaluate.md."""
    images = _unpack_cifar10(tmp_path)
    config = _config(images, tmp_path, epochs=20)
    config = replace(config, method=replace(config.method, queue_size=4096))
    result = pretrain(config, say=_say)
    lines = [json.loads(line) for line in (Path(result.folder) / "eval.jsonl").read_text().splitlines()]
    before, after = lines[0]["eval/knn_top1"], lines[-1]["eval/knn_top1"]
    assert after > before + 5
    assert after > _raw_pixels_knn(images) + 2


def _unpack_cifar10(folder: Path) -> Path:
    """1,000 training and 200 test images of each class."""
    counts: dict[str, int] = {}
    with tarfile.open(CIFAR10) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            if not member.isfile():
                continue
            *_, split, label, name = member.name.split("/")
            key = f"{split}/{label}"
            if counts.get(key, 0) < {"train": 1000, "test": 200}.get(split, 0):
                counts[key] = counts.get(key, 0) + 1
                content = archive.extractfile(member)
                assert content is not None
                target = folder / "cifar10" / key / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    return folder / "cifar10"
