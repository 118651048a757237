"""Boxes go where their objects go, whatever is drawn for an image."""

from __future__ import annotations

import numpy as np
import pytest

from moco_ray.config.detection import DetectionConfig
from moco_ray.data.boxes.maker import BoxedView, scaled_size
from moco_ray.data.makers import Sample

CONFIG = DetectionConfig(min_px=(40, 60, 80), max_px=100, test_px=60, max_boxes=3)
MAKER = BoxedView(CONFIG)


def made(position: int, image: np.ndarray, targets: list[list[float]], seed: int = 0) -> dict[str, np.ndarray]:
    out = {name: array[0, ...] for name, array in MAKER.empty(1).items()}
    for array in out.values():
        array[...] = 77
    MAKER.make([Sample(image, -1, position, out, np.array(targets, dtype=np.float32).ravel())], seed)
    return out


def with_a_white_box() -> np.ndarray:
    image = np.zeros((60, 90, 3), dtype=np.uint8)
    image[12:30, 9:36] = 255
    return image


def test_boxes_follow_their_objects_through_every_size_and_mirror() -> None:
    sizes, lefts = set(), set()
    for position in range(40):
        out = made(position, with_a_white_box(), [[9, 12, 36, 30, 2, 0, 0]])
        height, width = out["size"]
        image = out["images"][: height * width * 3].reshape(height, width, 3)
        assert not out["images"][height * width * 3 :].any()
        ys, xs = np.nonzero(image[..., 0] > 127)
        found = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert int(out["num_boxes"]) == 1 and out["labels"].tolist() == [3, 0, 0]
        np.testing.assert_allclose(out["boxes"][0], found, atol=1.01)
        sizes.add((int(height), int(width)))
        lefts.add(bool(out["boxes"][0, 0] < width / 3))
    assert sizes == {(40, 60), (60, 90), (67, 100)} and lefts == {True, False}


def test_a_view_is_a_function_of_seed_and_position() -> None:
    box = [[9, 12, 36, 30, 2, 0, 0]]
    first, again = made(3, with_a_white_box(), box), made(3, with_a_white_box(), box)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    others = [
        made(position, with_a_white_box(), box, seed)["boxes"][0].tolist()
        for position, seed in ((3, 1), (3, 2), (3, 3))
    ]
    assert any(other != first["boxes"][0].tolist() for other in others)


def test_crowds_what_lies_outside_and_too_many_are_not_trained_on_and_difficult_boxes_are() -> None:
    kept = [1, 1, 30, 30]
    targets = [[*kept, 0, 1, 0], [*kept, 1, 0, 1], [90, 1, 99, 9, 2, 0, 0], *[[*kept, i, 0, 0] for i in (3, 4, 5, 6)]]
    out = made(0, with_a_white_box(), targets)
    assert int(out["num_boxes"]) == 3 and out["labels"].tolist() == [1, 4, 5]
    empty = made(0, with_a_white_box(), [])
    assert int(empty["num_boxes"]) == 0 and not empty["boxes"].any()


@pytest.mark.parametrize(
    ("size", "scaled"),
    [((375, 500), (800, 1067)), ((500, 375), (1067, 800)), ((100, 1000), (133, 1333)), ((1, 9), (148, 1333))],
)
def test_sizes_are_those_of_detectron2(size: tuple[int, int], scaled: tuple[int, int]) -> None:
    assert scaled_size(*size, 800, 1333) == scaled


def test_no_image_is_larger_than_its_room() -> None:
    room = CONFIG.pixels_per_image
    for height in (1, 7, 50, 99, 1000):
        for width in (1, 8, 51, 100, 999):
            for side in CONFIG.min_px:
                assert np.prod(scaled_size(height, width, side, CONFIG.max_px)) <= room
