"""Average precision, against values that were worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from moco_ray.evaluate.average_precision import Found, average_precision


def boxes(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32).reshape(-1, 7)


def found(*rows: list[float]) -> Found:
    """x1, y1, x2, y2, label, score."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Found(table[:, :4], table[:, 4].astype(np.int64), table[:, 5])


SQUARE = [0, 0, 10, 10]
OTHER = [50, 50, 60, 60]
AWAY = [80, 0, 90, 10]


def test_the_boxes_themselves_have_all_points_and_none_have_no_points() -> None:
    truth = [boxes([*SQUARE, 0, 0, 0], [*OTHER, 1, 0, 0]), boxes([*AWAY, 0, 0, 0])]
    all_of_them = [found([*SQUARE, 0, 0.9], [*OTHER, 1, 0.2]), found([*AWAY, 0, 0.4])]
    expected = {"AP": 100, "AP50": 100, "AP75": 100, "AP50/dog": 100, "AP50/cat": 100}
    assert average_precision(all_of_them, truth, ["dog", "cat"]) == pytest.approx(expected)
    nothing = [found(), found()]
    assert average_precision(nothing, truth, ["dog", "cat"]) == dict.fromkeys(expected, 0)


def test_precision_is_the_mean_over_101_recalls() -> None:
    # By score: right, wrong, right, of two boxes. Precision is 1 up to recall .5 (51 of 101 recalls) and 2/3 after it (50).
    truth = [boxes([*SQUARE, 0, 0, 0], [*OTHER, 0, 0, 0])]
    guesses = [found([*SQUARE, 0, 0.9], [*AWAY, 0, 0.8], [*OTHER, 0, 0.7])]
    measures = average_precision(guesses, truth, ["dog"])
    by_hand = 100 * (51 + 50 * 2 / 3) / 101
    assert measures == pytest.approx({"AP": by_hand, "AP50": by_hand, "AP75": by_hand, "AP50/dog": by_hand})


def test_ap_is_the_mean_over_ten_overlaps() -> None:
    # 8 of 10 columns: an overlap of .8, which is enough at .5 .55 .6 .65 .7 .75 .8 and not at .85 .9 .95.
    measures = average_precision([found([0, 0, 8, 10, 0, 1.0])], [boxes([*SQUARE, 0, 0, 0])], ["dog"])
    assert measures["AP"] == pytest.approx(70) and measures["AP50"] == measures["AP75"] == pytest.approx(100)
    narrow = average_precision([found([0, 0, 6, 10, 0, 1.0])], [boxes([*SQUARE, 0, 0, 0])], ["dog"])
    assert narrow["AP"] == pytest.approx(30) and narrow["AP75"] == 0


def test_difficult_boxes_are_neither_found_nor_missed() -> None:
    truth = [boxes([*SQUARE, 0, 0, 0], [*OTHER, 0, 1, 0])]
    right = [*SQUARE, 0, 0.5]
    for more in ([], [[*OTHER, 0, 0.9]], [[*OTHER, 0, 0.9], [*OTHER, 0, 0.8]]):
        assert average_precision([found(right, *more)], truth, ["dog"])["AP"] == pytest.approx(100)
    # A quarter of a difficult box overlaps it by .25: that is wrong. Of a crowd it would be a part.
    quarter = found(right, [50, 50, 55, 55, 0, 0.9])
    assert average_precision([quarter], truth, ["dog"])["AP50"] == pytest.approx(50)
    crowd = [boxes([*SQUARE, 0, 0, 0], [*OTHER, 0, 0, 1])]
    assert average_precision([quarter], crowd, ["dog"])["AP50"] == pytest.approx(100)


def test_classes_without_boxes_count_in_no_mean() -> None:
    measures = average_precision(
        [found([*SQUARE, 1, 0.9], [*SQUARE, 0, 0.9])], [boxes([*SQUARE, 0, 0, 0])], ["dog", "cat"]
    )
    assert measures["AP"] == pytest.approx(100) and "AP50/cat" not in measures
    assert average_precision([found()], [boxes()], ["dog"]) == {}
