"""Labels: text stays text, missing is missing in any spelling, and what is no class is said."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from moco_ray.data.labels import NoClasses, count_words, encode_labels, join_labels


def classes(*values: Any) -> list[str | None]:
    """The class of each value."""
    ids, names = encode_labels(values)
    return [None if i < 0 else names[i] for i in ids]


@pytest.mark.parametrize(
    "missing",
    [
        None,
        float("nan"),
        Decimal("NaN"),
        "",
        "  ",
        "\t",
        "null",
        "NULL",
        "None",
        "nan",
        "NaN",
        "NA",
        "n/a",
        "N/A",
        "<NA>",
        "\\N",
        [],
    ],
)
def test_a_missing_label_is_no_class_in_any_spelling(missing: Any) -> None:
    assert classes("cat", missing, "dog") == ["cat", None, "dog"]


def test_words_that_somebody_chose_are_classes() -> None:
    assert classes("unknown", "other", "no", "-") == ["unknown", "other", "no", "-"]


@pytest.mark.parametrize(
    "values", [(-1, 0, 2, -1), ("-1", "0", "2", "-1"), (-1.0, 0.0, 2.0, float("nan")), ("-1", "0", "2", "None")]
)
def test_minus_one_beside_other_numbers_is_no_label(values: tuple[Any, ...]) -> None:
    assert classes(*values) == [None, "0", "2", None]


@pytest.mark.parametrize("values", [(-1, -1), ("-1", "-1", ""), (-1.0, float("nan")), ("-1.0",), (b"-1",)])
def test_nothing_but_minus_one_is_no_label(values: tuple[Any, ...]) -> None:
    assert classes(*values) == [None] * len(values)


def test_numbers_with_a_plus_are_numbers() -> None:
    assert encode_labels(["+10", "-1", "+9"])[1] == ("+9", "+10")
    assert classes("-1.0", "+1.0") == ["-1", "1"]
    assert classes("+1", "-1", None, "+1") == ["+1", "-1", None, "+1"]


def test_minus_one_beside_words_is_no_label() -> None:
    assert classes("-1", "cat", "dog") == [None, "cat", "dog"]


@pytest.mark.parametrize("values", [(-1, 1), (-2, -1, 0), (-1, 1, -1), ("-1", "1", "1"), ("+1", "-1")])
def test_minus_one_is_a_class_where_it_must_be_meant(values: tuple[Any, ...]) -> None:
    assert classes(*values) == [str(value) for value in values]


def test_text_is_a_class_as_it_is_written() -> None:
    for texts in (
        ("001", "01", "1"),
        ("1e5", "100000"),
        ("true", "True"),
        ("0x1", "1"),
        ("1.10", "1.1"),
        ("é", "e\u0301"),
    ):
        assert classes(*texts) == list(texts)


def test_integers_sort_as_numbers_as_text_too() -> None:
    assert encode_labels([10, 9, 100])[1] == ("9", "10", "100")
    assert encode_labels(["10", "9", "100", "01", "1"])[1] == ("01", "1", "9", "10", "100")
    assert encode_labels(["10", "9", "x"])[1] == ("10", "9", "x")


@pytest.mark.parametrize("values", [(0.0, 1.0), ("0.0", "1.0"), (Decimal("0"), Decimal("1.00")), ([0], [1]), (0, 1.0)])
def test_whole_numbers_are_classes_however_they_are_stored(values: tuple[Any, ...]) -> None:
    assert classes(*values) == ["0", "1"]


def test_truth_values_and_bytes_of_text_are_classes() -> None:
    assert classes(True, False, None) == ["True", "False", None]
    for values in ((True, 1, 0), (1, True, False, 0), (True, 1, "cat"), (1.0, True)):
        assert classes(*values) == ["1" if value == 1.0 and value is not True else str(value) for value in values]
    assert classes(b"cat", "ü".encode(), b"") == ["cat", "ü", None]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.3, "holds 0.3, a number that is no class"),
        (float("inf"), "holds inf"),
        (Decimal("0.5"), "holds 0.5"),
        ([0, 1], r"several labels for one picture, such as \[0, 1\]"),
        (["cat", "dog"], "several labels"),
        ({"x": 1}, "nested fields"),
        ([{"x": 1}], "nested fields"),
        (datetime.datetime(2026, 1, 2), "holds times, such as 2026-01-02"),
        (datetime.date(2026, 1, 2), "holds times"),
        (b"\xff\xfe\x00", "holds bytes that are no text"),
        ({1, 2}, "values of the type set"),
    ],
)
def test_what_is_no_class_is_said(value: Any, message: str) -> None:
    with pytest.raises(NoClasses, match=message):
        encode_labels([None, value])


def test_no_label_at_all_is_no_class() -> None:
    ids, names = encode_labels([None, "", "NaN"])
    assert names == () and ids.tolist() == [-1, -1, -1]
    assert encode_labels([])[1] == ()


def test_counts_are_said_of_many_classes_the_largest_and_the_smallest() -> None:
    labels = np.array([0, 0, 1, -1])
    assert count_words(("cat", "dog"), labels) == "2 classes: cat (2), dog (1); 1 without a label"
    many = np.repeat(np.arange(20), np.arange(20) + 1)
    words = count_words(tuple(f"c{i}" for i in range(20)), many)
    assert words == "20 classes: c19 (20), c18 (19), c17 (18) … c2 (3), c1 (2), c0 (1)"
    assert "2 classes of one image each" in count_words(("a", "b"), np.array([0, 1]))


def test_rows_that_name_an_image_again_count_once_and_not_with_two_labels() -> None:
    uris, labels, notes = join_labels(["a", "b", "a", "c", "c", "b"], ["x", "", "x", "x", "y", "z"])
    assert (uris, labels) == (["a", "b", "c"], ["x", "z", None])
    assert "3 rows with an image that is named before" in notes[0] and "1 image with different labels" in notes[1]
    assert join_labels(["a", "b"], [1, 2]) == (["a", "b"], [1, 2], [])
