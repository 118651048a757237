from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moco_ray.data.manifest import Manifest, make_manifest
from moco_ray.data.reading import Encoded, read_rows
from moco_ray.evaluate import features
from moco_ray.evaluate.features import ImageSet, encode_images, load_images
from moco_ray.storage.storage import StorageOptions, resolve_storage_options

Pixels = NDArray[np.uint8]
HALF = (0.5, 0.5, 0.5)


class MeanColour(nn.Module):
    """Features (n, 3): the mean of each channel. Notes the mode of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        return self.scale * images.mean(dim=(2, 3))


def grey_set(folder: Path, levels: list[int | None], *, size_px: int = 8) -> ImageSet:
    """One flat grey image for each level, labelled with its place; None is a file that does not decode."""
    for i, level in enumerate(levels):
        content = b"no image"
        if level is not None:
            content = cv2.imencode(".png", np.full((size_px, size_px, 3), level, np.uint8))[1].tobytes()
        (folder / f"{i:04d}.png").write_bytes(content)
    rows = np.arange(len(levels))
    return ImageSet(
        manifest=manifest_of(folder, len(levels)),
        rows=rows,
        labels=rows.copy(),
        options=resolve_storage_options(str(folder), None),
        max_pixels=10_000,
    )


def manifest_of(folder: Path, n: int) -> Manifest:
    return make_manifest(uris=[f"{folder}/{i:04d}.png" for i in range(n)], labels=np.zeros(n, np.int64), classes=())


def encode(images: ImageSet, backbone: nn.Module | None = None) -> features.Features:
    return encode_images(backbone or MeanColour(), images, crop_px=8, resize_px=8, mean=HALF, std=HALF)


def test_features_are_of_the_standardised_centre_crop_in_order(tmp_path: Path) -> None:
    levels = [int(level) for level in np.random.default_rng(0).integers(0, 256, 150)]  # three batches, the last short
    encoded = encode(grey_set(tmp_path, [*levels]))
    expected = (torch.tensor(levels) / 255 - 0.5) / 0.5
    torch.testing.assert_close(encoded.features, expected[:, None].expand(-1, 3), rtol=0, atol=1e-6)
    assert encoded.labels.tolist() == list(range(150))
    assert encoded.features.dtype == torch.float32
    assert encoded.num_bad == 0


def test_bad_images_are_left_out_and_counted_and_labels_stay_with_their_images(tmp_path: Path) -> None:
    levels: list[int | None] = [50, None, 200]
    levels += [None] * 150  # at least one whole batch of nothing but bad images
    levels += [100, None]
    encoded = encode(grey_set(tmp_path, levels))
    assert encoded.labels.tolist() == [0, 2, 153]
    assert encoded.num_bad == 152
    assert (encoded.features[:, 0] * 127.5 + 127.5).round().tolist() == [50, 200, 100]


def test_images_of_too_many_pixels_are_bad(tmp_path: Path) -> None:
    images = grey_set(tmp_path, [1, 2], size_px=101)
    with pytest.raises(ValueError, match="none of the 2 images to evaluate on can be decoded"):
        encode(images)


def test_a_file_that_is_gone_or_has_changed_is_left_out_and_counted(tmp_path: Path) -> None:
    images = grey_set(tmp_path, [50, 100, 150, 200])
    (tmp_path / "0001.png").unlink()
    (tmp_path / "0002.png").unlink()
    (tmp_path / "0002.png").mkdir()
    encoded = encode(images)
    assert encoded.labels.tolist() == [0, 3] and encoded.num_bad == 2


def test_files_that_are_all_gone_are_an_error(tmp_path: Path) -> None:
    images = grey_set(tmp_path, [1, 2, 3])
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match=r"0\.png: there is no such file.*mounted"):
        encode(images)


def test_ids_are_equal_for_identical_images_only(tmp_path: Path) -> None:
    ids = encode(grey_set(tmp_path, [7, 9, 7, 8])).ids
    assert ids[0] == ids[2]
    assert len(set(ids.tolist())) == 3


@pytest.mark.parametrize("is_training", [True, False])
def test_backbone_runs_in_evaluation_mode_without_gradients_and_gets_its_mode_back(
    is_training: bool, tmp_path: Path
) -> None:
    backbone = MeanColour().train(is_training)
    encoded = encode(grey_set(tmp_path, [1, 2]), backbone)
    assert backbone.modes == [False]
    assert backbone.training == is_training
    assert not encoded.features.requires_grad


def test_the_mode_comes_back_after_a_failure(tmp_path: Path) -> None:
    images = grey_set(tmp_path, [None])
    backbone = MeanColour().train()
    with pytest.raises(ValueError, match="can be decoded"):
        encode(images, backbone)
    assert backbone.training


def test_read_ahead_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_MAX_THREADS", 2)
    lock, num_made = threading.Lock(), 0

    def view(image: Pixels, place: int) -> Pixels:
        nonlocal num_made
        with lock:
            num_made += 1
        return image

    batches = load_images(grey_set(tmp_path, [*range(40)]), view, at_once=1)
    next(batches)
    batches.close()  # type: ignore[attr-defined]  # waits for what is running and cancels the rest
    assert 1 <= num_made <= 4


def test_view_is_told_the_place_of_its_image(tmp_path: Path) -> None:
    images = grey_set(tmp_path, [None, 10, 20, 30])

    def view(image: Pixels, place: int) -> Pixels:
        return np.array([image[0, 0, 0], place], dtype=np.uint8)

    (batch,) = load_images(images, view)
    assert batch.pixels.tolist() == [[10, 1], [20, 2], [30, 3]]
    assert batch.places.tolist() == [1, 2, 3]


def test_spread_covers_the_whole_set_evenly(tmp_path: Path) -> None:
    images = grey_set(tmp_path, [*range(10)])
    assert images.spread(4).rows.tolist() == [0, 3, 6, 9]
    assert images.spread(4).labels.tolist() == [0, 3, 6, 9]
    assert images.spread(99).rows.tolist() == list(range(10))


def parquet_set(folder: Path, n: int, *, in_group: int) -> ImageSet:
    """Grey images in row groups of one file."""
    cells = [cv2.imencode(".png", np.full((8, 8, 3), i % 256, np.uint8))[1].tobytes() for i in range(n)]
    pq.write_table(pa.table({"image": pa.array(cells, pa.binary())}), folder / "a.parquet", row_group_size=in_group)
    rows = np.arange(n)
    manifest = make_manifest(
        uris=[f"{folder}/a.parquet"] * n,
        labels=np.full(n, -1),
        classes=(),
        row_groups=rows // in_group,
        rows_in_group=rows % in_group,
        image_column="image",
    )
    options = resolve_storage_options(str(folder), None)
    return ImageSet(manifest=manifest, rows=rows, labels=rows.copy(), options=options, max_pixels=10_000)


def test_row_groups_that_many_batches_share_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = parquet_set(tmp_path, 600, in_group=300)
    read: list[tuple[int, int]] = []

    def note(manifest: Manifest, rows: NDArray[np.int64], options: StorageOptions) -> list[Encoded]:
        read.append((int(rows[0]), int(rows[-1])))
        return read_rows(manifest, rows, options)

    monkeypatch.setattr(features, "read_rows", note)
    batches = list(load_images(images, lambda image, place: image))
    assert np.concatenate([batch.places for batch in batches]).tolist() == list(range(600))
    assert np.concatenate([batch.pixels[:, 0, 0, 0] for batch in batches]).tolist() == [i % 256 for i in range(600)]
    assert read == [(0, 599)]
    read.clear()
    list(load_images(images.spread(130), lambda image, place: image))  # few of many: a batch at a time
    assert len(read) == 3
