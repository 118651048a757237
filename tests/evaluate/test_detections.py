"""A detector is asked about each image as it is trained on others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco_ray.driver.images.boxed import list_boxed_images
from moco_ray.evaluate.detections import find_objects
from moco_ray.evaluate.features import ImageSet
from moco_ray.storage.storage import StorageOptions
from tests.boxed import shapes_config, write_shapes


class _Nothing(nn.Module):
    """Finds nothing, and keeps whether CUDA would try convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.searches = nn.Parameter(torch.zeros(1)), []

    def forward(self, images: Tensor, sizes: object) -> list[dict[str, Tensor]]:
        self.searches.append(torch.backends.cudnn.benchmark)
        return [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}]


def test_convolutions_are_not_searched_for_images_of_other_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = list_boxed_images(shapes_config(write_shapes(tmp_path / "voc", 2, 1), tmp_path), holds_out=False).train
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    detector = _Nothing()
    found = find_objects(
        detector,
        ImageSet(
            manifest=images, rows=np.arange(2), labels=images.labels, max_pixels=10_000, options=StorageOptions({})
        ),
        shorter_px=32,
        longest_px=64,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    assert len(found) == 2 and detector.searches == [False, False] and torch.backends.cudnn.benchmark
