"""Views: torchvision's draws and Pillow's pixels, from (seed, position, view) alone."""

from __future__ import annotations

import itertools
import math
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as TF

from moco_ray.config.views import ViewsConfig, cifar_views, simclr_views, v1_views, v2_views, v3_views
from moco_ray.data import views
from moco_ray.data.colour import blur
from moco_ray.data.views import ViewDraw, Wanted, apply_view, center_view, draw_view, make_view, make_views
from tests.data.pictures import pillow_view

PLAIN = ViewsConfig(jitter_p=0, grayscale_p=0, blur_p=(0, 0), flip_p=0)


@pytest.mark.parametrize(
    ("config", "mean_bound", "worst_bound"),
    [
        (PLAIN, 0.06, 0.4),
        (replace(PLAIN, flip_p=1.0), 0.06, 0.4),
        (replace(PLAIN, grayscale_p=1.0), 0.08, 0.4),
        (replace(PLAIN, grayscale_p=1.0, grayscale_first=True), 0.08, 0.4),
        (replace(PLAIN, jitter_p=1.0, jitter=(0.4, 0, 0, 0)), 0.3, 1.0),
        (replace(PLAIN, jitter_p=1.0, jitter=(0, 0.4, 0, 0)), 0.3, 1.0),
        (replace(PLAIN, jitter_p=1.0, jitter=(0, 0, 0.4, 0)), 0.3, 1.0),
        (replace(PLAIN, jitter_p=1.0, jitter=(0, 0, 0, 0.1)), 1.0, 2.5),
        (replace(PLAIN, blur_p=(1.0, 1.0)), 0.5, 1.0),
        (replace(PLAIN, solarize_p=(1.0, 1.0)), 0.06, 0.4),
        (v1_views(), 1.1, 8.0),
        (v2_views(), 1.1, 8.0),
        (v2_views(crop_px=32), 1.1, 8.0),
        (replace(v2_views(), solarize_p=(0.5, 0.5)), 1.5, 25.0),
    ],
    ids=[
        "resize", "flip", "grey", "grey first", "brightness", "contrast", "saturation", "hue", "blur", "solarize",
        "v1", "v2", "v2 small", "v3",
    ],
)  # fmt: skip
def test_views_are_pillows_within_a_grey_level(
    photos: list[np.ndarray], config: ViewsConfig, mean_bound: float, worst_bound: float
) -> None:
    """Bounds in grey levels: of the mean over views, and of the worst view."""
    errors = []
    for position in range(32):
        image = photos[position % len(photos)]
        draw = draw_view(*image.shape[:2], config, seed=0, position=position, view=0)
        view = apply_view(image, draw, config)
        assert view.shape == (config.crop_px, config.crop_px, 3) and view.dtype == np.uint8
        errors.append(np.abs(view.astype(int) - pillow_view(image, draw, config)).mean())
    assert np.mean(errors) < mean_bound and np.max(errors) < worst_bound


def test_every_order_of_the_jitter_is_followed(photos: list[np.ndarray]) -> None:
    image = cv2.resize(photos[0], (64, 64), interpolation=cv2.INTER_AREA)
    config = replace(PLAIN, crop_px=64)
    drawn = draw_view(64, 64, config, seed=0, position=0, view=0)
    results = []
    for order in itertools.permutations(range(4)):
        draw = drawn._replace(crop=(0, 0, 64, 64), jitter_order=order, jitter_factors=(1.3, 0.6, 1.4, 0.09))
        view = apply_view(image, draw, config).astype(int)
        assert np.abs(view - pillow_view(image, draw, config)).mean() < 2
        results.append(view)
    assert np.abs(results[0] - results[-1]).mean() > 2  # the order matters here


@pytest.mark.parametrize("sigma", [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0])
def test_blur_is_pillows_where_neighbours_differ_most(sigma: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(sigma))).astype(int)
    difference = blur(noise, sigma).astype(int) - expected
    inside = difference[8:-8, 8:-8]  # Pillow extends the border before each of three passes, and we before one
    assert np.abs(inside).mean() < 1.0 and np.abs(inside).max() <= 5
    assert abs(inside.mean()) < 0.55  # Pillow itself darkens by half a level at sigma 1
    assert np.abs(difference).mean() < 1.0


def test_blur_keeps_the_brightness() -> None:
    flat = np.full((20, 20, 3), 201, np.uint8)
    for sigma in np.linspace(0.1, 3, 50):
        assert (blur(flat, float(sigma)) == 201).all()


def test_v1_turns_grey_before_the_jitter_and_v2_after_it(photos: list[np.ndarray]) -> None:
    grey = {"grayscale_p": 1.0, "jitter_p": 1.0}
    for config in (replace(v1_views(), **grey), replace(v2_views(), **grey)):
        for position in range(4):
            draw = draw_view(375, 500, config, seed=3, position=position, view=0)
            view = apply_view(photos[0], draw, config)
            assert (view[..., 0] == view[..., 1]).all() and (view[..., 0] == view[..., 2]).all()
            assert np.abs(view.astype(int) - pillow_view(photos[0], draw, config)).mean() < 4
    assert v1_views().grayscale_first and not v2_views().grayscale_first


def test_a_view_depends_on_seed_position_and_view_only(photos: list[np.ndarray]) -> None:
    config = v2_views(crop_px=32)

    def view(seed: int, position: int, number: int) -> bytes:
        return make_view(photos[0], config, seed=seed, position=position, view=number).tobytes()

    first = view(0, 5, 0)
    np.random.default_rng().random()
    torch.rand(3)
    assert view(0, 5, 0) == first
    assert len({first, view(0, 5, 1), view(0, 6, 0), view(1, 5, 0)}) == 4


def test_neighbouring_positions_draw_independently() -> None:
    config = replace(v2_views(), jitter_p=1.0)
    draws = [draw_view(300, 300, config, seed=7, position=p, view=v) for p in range(3000) for v in (0, 1)]
    brightness = np.array([draw.jitter_factors[0] for draw in draws]) - 1
    for lag in (1, 2, 3):
        correlation = float((brightness[lag:] * brightness[:-lag]).mean() / brightness.var())
        assert abs(correlation) < 5 / math.sqrt(len(draws))


def test_draws_are_pinned() -> None:
    """Checkpoints of older versions must resume with the same views."""
    draw = draw_view(375, 500, v2_views(), seed=1, position=2, view=0)
    assert draw.crop == (24, 238, 210, 190) and draw.jitter_order == (1, 2, 3, 0)
    factors = (1.3115737703669719, 1.391964642907033, 1.353764050894668, -0.007989615137159053)
    assert draw.jitter_factors == pytest.approx(factors, rel=1e-12)


@pytest.fixture(scope="module")
def draws() -> list[ViewDraw]:
    config = replace(v2_views(), solarize_p=(0.3, 0.0))
    return [draw_view(375, 500, config, seed=0, position=i, view=0) for i in range(8000)]


def test_probabilities_are_the_configs(draws: list[ViewDraw]) -> None:
    observed = {
        0.8: [bool(draw.jitter_order) for draw in draws],
        0.2: [draw.is_gray for draw in draws],
        0.5: [draw.blur_sigma > 0 for draw in draws],
        0.3: [draw.is_solarized for draw in draws],
        0.5 + 1e-9: [draw.is_flipped for draw in draws],
    }
    for probability, happened in observed.items():
        assert np.mean(happened) == pytest.approx(probability, abs=5 * math.sqrt(0.25 / len(draws)))


def test_strengths_are_uniform_over_torchvisions_ranges(draws: list[ViewDraw]) -> None:
    factors = np.array([draw.jitter_factors for draw in draws if draw.jitter_order])
    ranges = [(0.6, 1.4)] * 3 + [(-0.1, 0.1)]
    samples = [*zip(factors.T, ranges, strict=True)]
    samples.append((np.array([draw.blur_sigma for draw in draws if draw.blur_sigma]), (0.1, 2.0)))
    for values, (low, high) in samples:
        unit = (np.sort(values) - low) / (high - low)
        distance = np.abs(unit - (np.arange(len(unit)) + 0.5) / len(unit)).max()
        assert distance < 2 / math.sqrt(len(unit))  # Kolmogorov and Smirnov, p about 0.001


def test_the_orders_of_the_jitter_are_equally_likely(draws: list[ViewDraw]) -> None:
    orders = [draw.jitter_order for draw in draws if draw.jitter_order]
    counts = np.array([orders.count(order) for order in itertools.permutations(range(4))])
    expected = len(orders) / 24
    assert counts.sum() == len(orders)
    assert float(((counts - expected) ** 2 / expected).sum()) < 23 + 5 * math.sqrt(46)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (32, 32), (40, 400), (700, 90)])
@pytest.mark.parametrize("area_min", [0.08, 0.2])
def test_crops_are_distributed_as_torchvisions(height: int, width: int, area_min: float) -> None:
    config = replace(v2_views(), crop_min=area_min)
    ours = [draw_view(height, width, config, seed=1, position=i, view=0).crop for i in range(3000)]
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    theirs = [RandomResizedCrop.get_params(image, [area_min, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)]
    for column in range(4):
        grid = np.arange(max(height, width) + 1)
        a, b = (
            np.searchsorted(np.sort([crop[column] for crop in crops]), grid, side="right") / len(crops)
            for crops in (ours, theirs)
        )
        assert np.abs(a - b).max() < 2.2 * math.sqrt(2 / 3000)
    for top, left, h, w in ours:
        assert 0 <= top <= height - h and 0 <= left <= width - w and h > 0 and w > 0


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (2, 2), (1000, 3)])
def test_tiny_and_extreme_images_give_views(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for position in range(20):
        for view in (0, 1):
            made = make_view(image, v2_views(crop_px=24), seed=0, position=position, view=view)
            assert made.shape == (24, 24, 3) and made.flags.c_contiguous


def resized_by_torch(image: np.ndarray, side: int) -> np.ndarray:
    x = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)
    x = torch.nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return x[0].numpy().transpose(1, 2, 0)


@pytest.mark.parametrize("side", [1, 2, 17, 31, 32, 33, 96])
def test_crops_of_any_size_have_the_bytes_of_torchs_resize(side: int) -> None:
    random = np.random.default_rng(side)
    config = replace(PLAIN, crop_px=side)
    for height in (*range(1, 35), 120):
        for width in (*range(1, 35, 3), 120):
            image = random.integers(0, 256, (height + 3, width + 2, 3), dtype=np.uint8)
            if (height + width) % 2:
                image = np.where(image > 127, 255, 0).astype(np.uint8)  # the largest sums
            draw = draw_view(*image.shape[:2], config, seed=0, position=0, view=0)._replace(crop=(2, 1, height, width))
            expected = resized_by_torch(image[2 : 2 + height, 1 : 1 + width], side)
            assert (apply_view(image, draw, config) == expected).all()


@pytest.mark.parametrize("crop_px", [8, 32, 48])
@pytest.mark.parametrize("recipe", [v1_views, v2_views, v3_views, simclr_views])
def test_views_made_together_are_those_made_alone(
    photos: list[np.ndarray], recipe: Callable[[int], ViewsConfig], crop_px: int
) -> None:
    config = recipe(crop_px)
    images = [photos[i % 4][: 32 + 9 * i, : 32 + 7 * i] for i in range(16)]
    batch = np.zeros((16, 2, crop_px, crop_px, 3), np.uint8)
    wanted = [Wanted(image, 100 + i, view, batch[i, view]) for i, image in enumerate(images) for view in (0, 1)]
    make_views(wanted, config, seed=5)
    for i, image in enumerate(images):
        for view in (0, 1):
            assert (batch[i, view] == make_view(image, config, seed=5, position=100 + i, view=view)).all()
    make_views([], config, seed=5)


def test_the_image_is_not_changed(photos: list[np.ndarray]) -> None:
    image = photos[0][:32, :32].copy()
    before = image.copy()
    config = replace(cifar_views(), crop_min=1.0, jitter_p=0, grayscale_p=0, solarize_p=(1.0, 1.0))
    for position in range(8):
        view = make_view(image, config, seed=0, position=position, view=0)
        assert not np.shares_memory(view, image)
    assert (image == before).all()


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (64, 64), (20, 31)])
@pytest.mark.parametrize(("crop_px", "resize_px"), [(224, 256), (32, 32)])
def test_center_view_is_torchvisions_resize_and_center_crop(
    photos: list[np.ndarray], height: int, width: int, crop_px: int, resize_px: int
) -> None:
    image = cv2.resize(photos[1], (width, height), interpolation=cv2.INTER_AREA)
    expected = np.asarray(TF.center_crop(TF.resize(Image.fromarray(image), resize_px), [crop_px, crop_px]))
    view = center_view(image, crop_px, resize_px)
    assert view.shape == expected.shape
    assert np.abs(view.astype(int) - expected).mean() < 0.3


@pytest.mark.parametrize(("height", "width"), [(90, 400), (400, 90), (375, 500), (20, 31), (300, 1300), (33, 640)])
@pytest.mark.parametrize(("crop_px", "resize_px"), [(96, 110), (32, 32), (224, 256)])
def test_cropping_before_the_resize_shows_what_cropping_after_it_showed(
    photos: list[np.ndarray], height: int, width: int, crop_px: int, resize_px: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = cv2.resize(photos[2], (width, height), interpolation=cv2.INTER_AREA)
    monkeypatch.setattr(views, "_MOST_RESIZED", 1000)
    after = center_view(image, crop_px, resize_px).astype(int)
    monkeypatch.setattr(views, "_MOST_RESIZED", 0)
    before = center_view(image, crop_px, resize_px)
    assert before.shape == after.shape and before.flags.c_contiguous
    assert np.abs(before - after).max() <= 1 and np.abs(before - after).mean() < 0.1


@pytest.mark.parametrize(("height", "width"), [(1, 20_000), (20_000, 1), (3, 30_000), (2, 9_000_000), (500, 60_000)])
def test_the_cost_of_a_view_does_not_depend_on_the_longer_side(height: int, width: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    image[:, ::7] = 200
    config = v2_views()
    tracemalloc.start()
    start = time.perf_counter()
    try:
        evaluated = center_view(image, 224, 256)
        trained = [make_view(image, config, seed=0, position=i, view=0) for i in range(3)]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(view.shape == (224, 224, 3) for view in (evaluated, *trained))
    assert time.perf_counter() - start < 1.5 and peak_bytes < 30_000_000


def test_center_view_refuses_a_crop_larger_than_the_image() -> None:
    with pytest.raises(ValueError, match="resize to at least the crop"):
        center_view(np.zeros((9, 9, 3), np.uint8), 64, 32)


def _wrong_configs() -> Iterator[dict[str, object]]:
    yield {"crop_px": 0}
    yield {"crop_min": 0.0}
    yield {"jitter_p": 1.5}
    yield {"blur_p": (0.5, -0.1)}
    yield {"jitter": (0.4, 0.4, 0.4, 0.6)}
    yield {"blur_sigma": (2.0, 0.1)}
    yield {"std": (0.0, 1.0, 1.0)}


@pytest.mark.parametrize("change", list(_wrong_configs()), ids=str)
def test_impossible_configs_are_refused_with_the_field_and_the_value(change: dict[str, object]) -> None:
    (field,) = change
    with pytest.raises(ValueError, match=rf"^views\.{field.replace('_', '-')} is "):
        ViewsConfig(**change)  # type: ignore[arg-type]
