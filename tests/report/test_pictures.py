from __future__ import annotations

import io
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from moco_ray.report.pictures import curves_picture, neighbours_picture, views_picture

Pixels = NDArray[np.uint8]
RIGHT, WRONG = (0x12, 0x80, 0x5C), (0xC9, 0x43, 0x2E)


def decoded(png: bytes) -> Pixels:
    assert png.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def flat(red: int, green: int, blue: int, size: tuple[int, int] = (28, 28)) -> Pixels:
    return np.full((*size, 3), (red, green, blue), dtype=np.uint8)


def centre_of(picture: Pixels, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Mean (row, column) of the pixels of exactly this colour."""
    rows, columns = np.nonzero((picture == colour).all(axis=2))
    assert len(rows), f"no pixel of colour {colour}"
    return float(rows.mean()), float(columns.mean())


def test_views_stand_below_their_image_query_above_key() -> None:
    red, green, blue = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    other = flat(9, 9, 9)
    picture = decoded(views_picture([flat(*red, size=(40, 20)), other], [flat(*green), other], [flat(*blue), other]))
    image, query, key = (centre_of(picture, colour) for colour in (red, green, blue))
    assert image[0] < query[0] < key[0]
    assert image[1] == pytest.approx(query[1], abs=2) == key[1]
    assert centre_of(picture, (9, 9, 9))[1] > key[1] + 50


def test_neighbours_are_framed_by_whether_their_class_agrees() -> None:
    picture = decoded(
        neighbours_picture([flat(9, 9, 9)], [[flat(8, 8, 8), flat(7, 7, 7)]], [0], [[0, 1]], ["cat", "dog"])
    )
    assert centre_of(picture, RIGHT)[1] == pytest.approx(centre_of(picture, (8, 8, 8))[1], abs=4)
    assert centre_of(picture, WRONG)[1] == pytest.approx(centre_of(picture, (7, 7, 7))[1], abs=4)


def test_neighbours_of_the_right_class_have_no_wrong_mark() -> None:
    picture = decoded(neighbours_picture([flat(9, 9, 9)], [[flat(8, 8, 8)]], [1], [[1]], ["cat", "dog"]))
    assert not (picture == WRONG).all(axis=2).any()


def test_neighbours_without_labels_have_no_frames() -> None:
    images = [flat(9, 9, 9)], [[flat(8, 8, 8), flat(7, 7, 7)]]
    picture = decoded(neighbours_picture(*images, similarities=[[0.9, 0.5]]))
    assert not (picture == RIGHT).all(axis=2).any() and not (picture == WRONG).all(axis=2).any()
    assert centre_of(picture, (9, 9, 9))[1] < centre_of(picture, (8, 8, 8))[1] < centre_of(picture, (7, 7, 7))[1]
    assert not np.array_equal(picture, decoded(neighbours_picture(*images, similarities=[[0.9, 0.4]])))


def test_unequal_lists_are_errors() -> None:
    with pytest.raises(ValueError, match="2 images, 1 query views"):
        views_picture([flat(1, 1, 1)] * 2, [flat(1, 1, 1)], [flat(1, 1, 1)] * 2)
    with pytest.raises(ValueError, match="give a label for each"):
        neighbours_picture([flat(1, 1, 1)], [[flat(1, 1, 1)]], [0], [[0, 0]], ["a"])
    with pytest.raises(ValueError, match="or no labels"):
        neighbours_picture([flat(1, 1, 1)], [[flat(1, 1, 1)]], similarities=[[1.0, 0.5]])


def test_curves_show_the_chance_level_only_when_given() -> None:
    metrics = [{"step": s, "train/loss": 5.0 - s / 100, "train/contrast_accuracy": s / 2} for s in range(120)]
    evals = [{"step": 50, "eval/knn_top1": 40.0}, {"step": 100, "eval/knn_top1": 45.0}]
    with_chance = decoded(curves_picture(metrics, evals, chance_loss=math.log(4097)))
    without = decoded(curves_picture(metrics, evals))
    assert with_chance.shape == without.shape
    assert (with_chance != without).any()


def test_curves_fall_back_to_rankme_without_labels() -> None:
    metrics = [{"step": 1, "train/loss": 5.0, "train/contrast_accuracy": 1.0}]
    rank = {"step": 1, "eval/rankme": 12.0}
    labelled = decoded(curves_picture(metrics, [rank | {"eval/knn_top1": 40.0}]))
    assert (decoded(curves_picture(metrics, [rank])) != labelled).any()
    centre_of(decoded(curves_picture(metrics, [rank])), RIGHT)


def test_a_run_without_any_step_still_has_a_picture() -> None:
    decoded(curves_picture([], []))
