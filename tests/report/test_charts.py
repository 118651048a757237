import itertools
import json
import math
import xml.etree.ElementTree as ElementTree

import pytest

from moco_ray.report.charts import Level, Mark, Series, line_chart, series_of
from moco_ray.report.scales import number_text, round_ticks, spread, tick_texts
from moco_ray.report.style import SERIES, SERIES_DASHES
from moco_ray.report.thinning import Thinned


def figure(*arguments, **options) -> ElementTree.Element:
    return ElementTree.fromstring(line_chart(*arguments, **options))


def points_of(chart: ElementTree.Element) -> dict[str, list[list[float]]]:
    return {
        one.get("data-name"): json.loads(one.get("data-points")) for one in chart.iter("g") if one.get("data-points")
    }


def test_holds_its_values_levels_and_marks_as_they_were_given():
    chart = figure(
        "Loss",
        [Series(name="loss", steps=[0, 10, 30], values=[9.123456789, 5.5, 4.25])],
        levels=[Level(value=9.01, text="chance")],
        marks=[Mark(step=12, text="a worker was lost: 12.5 s, 3 steps redone", label="1")],
    )
    assert points_of(chart) == {"loss": [[0, 9.123456789], [10, 5.5], [30, 4.25]]}
    text = "".join(chart.itertext())
    assert "chance 9.01" in text and "a worker was lost: 12.5 s, 3 steps redone" in text
    assert chart.find("figcaption/data").get("value") == "4.25"


def test_says_in_words_what_it_shows():
    svg = figure("Accuracy", [Series(name="kNN", steps=[1, 5], values=[20.0, 51.2])], unit="%").find("svg")
    assert svg.get("role") == "img"
    for words in ("Accuracy", "kNN from 20 % at 1 to 51.2 % at 5"):
        assert words in svg.get("aria-label")


def test_lies_within_its_frame():
    chart = figure(
        "x",
        [Series(name="a", steps=[3, 4], values=[-2.0, 7.0], errors=[1.0, 2.0])],
        levels=[Level(value=20.0, text="l")],
        marks=[Mark(step=9, text="late")],
    )
    circles = [(float(one.get("cx")), float(one.get("cy"))) for one in chart.iter("circle")]
    assert len(circles) == 2
    assert all(0 < x < 480 and 0 < y < 250 for x, y in circles)
    assert circles[0][1] > circles[1][1]  # higher values are higher up


@pytest.mark.parametrize("values", [[], [math.nan], [4.2], [0.0], [5.0, 5.0], [1e-12, 2e-12], [-1e9, 1e9]])
def test_draws_whatever_there_is(values):
    chart = figure("x", [Series(name="a", steps=list(range(len(values))), values=values)])
    finite = [value for value in values if math.isfinite(value)]
    assert ("nothing on record" in "".join(chart.itertext())) == (not finite)
    assert "nan" not in "".join(one.get("d", "") for one in chart.iter("path"))


def test_says_what_is_not_finite():
    chart = figure("x", [Series(name="a", steps=[1, 2, 3], values=[1.0, math.inf, 2.0])])
    assert "a: 1 value is not finite and not drawn." in "".join(chart.itertext())
    assert points_of(chart) == {"a": [[1, 1.0], [3, 2.0]]}


def test_hostile_names_are_text():
    evil = "<script>alert('1')</script>\"'&"
    text = line_chart(
        evil,
        [Series(name=evil, steps=[1], values=[1.0]), Series(name="b", steps=[1], values=[2.0])],
        levels=[Level(value=1.0, text=evil)],
        marks=[Mark(step=1, text=evil, label=evil)],
        note=evil,
        unit=evil,
    )
    assert "<script" not in text
    assert list(points_of(ElementTree.fromstring(text))) == [evil, "b"]


def test_a_long_curve_stays_small_and_shows_its_mean():
    curve = Thinned()
    for step in range(50_000):
        curve.add(step, math.sin(step))
    text = line_chart("x", [series_of("a", curve)])
    assert len(text) < 60_000
    assert 'class="raw"' in text and 'class="plain"' in text


def test_twelve_lines_differ_in_colour_or_dash():
    assert len({(pair, dash) for pair, dash in zip(SERIES, SERIES_DASHES, strict=True)}) == 12
    chart = figure("x", [Series(name=f"r{i}", steps=[0, 1], values=[i, i + 1]) for i in range(12)])
    assert len({one.get("class") for one in chart.iter("g") if one.get("data-name")}) == 12
    assert len(list(chart.find("ul"))) == 12


def test_many_marks_do_not_write_over_each_other():
    marks = [Mark(step=step, text=f"at {step}", label=str(step)) for step in range(500)]
    chart = figure("x", [Series(name="a", steps=[0, 500], values=[0.0, 1.0])], marks=marks)
    groups = [one for one in chart.iter("g") if one.get("class") == "mark"]
    assert 40 <= len(groups) <= 60
    labels = sorted(float(one.find("text").get("x")) for one in groups if one.find("text") is not None)
    assert all(after - before >= 15 for before, after in itertools.pairwise(labels))


def test_ticks_are_round_and_within():
    assert round_ticks(0.0, 20_000, 4) == [0, 5000, 10_000, 15_000, 20_000]
    assert round_ticks(0.37, 9.3, 4) == [2.5, 5.0, 7.5]
    assert round_ticks(1, 3, 4, whole=True) == [1, 2, 3]
    assert round_ticks(5.0, 5.0, 4) == [5.0]


@pytest.mark.parametrize(
    ("low", "high", "axis"),
    [
        (0.0, 0.0, (0.0, 1.0)),
        (1.0, 3.0, (0.88, 3.12)),
        (-1.0, 1.0, (-1.12, 1.12)),
        (0.1, 10.0, (0.0, 10.594)),
        (0.001875, 0.001875, (0.0016875, 0.0020625)),
        (0.001875, 0.001875 * (1 + 1e-7), (0.0016875, 0.0020625)),  # which is rounding
        (5e-13, 1e-12, (4.7e-13, 1.03e-12)),
    ],
)
def test_axes_have_room_and_do_not_magnify_rounding(low, high, axis):
    assert spread(low, high) == pytest.approx(axis, rel=1e-5)


def test_a_constant_has_ticks_that_differ_and_fit():
    for values in ([0.001875], [0.001875, 0.001875 + 1e-12], [0.0], [512.0]):
        for from_zero in (False, True):
            chart = figure("x", [Series(name="a", steps=list(range(len(values))), values=values)], from_zero=from_zero)
            texts = [one.text for one in chart.iter("text") if one.get("text-anchor") == "end" and one.get("x") == "45"]
            assert 2 <= len(set(texts)) == len(texts) and max(map(len, texts)) <= 7, texts


@pytest.mark.parametrize(
    ("ticks", "texts"),
    [
        ([0, 5000, 10000], ["0", "5k", "10k"]),
        ([0, 2.5, 5], ["0.0", "2.5", "5.0"]),
        ([0.0, 0.0005, 0.001], ["0.0000", "0.0005", "0.0010"]),
        ([100_000, 200_000], ["100k", "200k"]),
        ([1000, 1001], ["1,000", "1,001"]),
        ([0.0, 5e-7], ["0", "5e-7"]),
    ],
)
def test_ticks_have_texts_that_differ(ticks, texts):
    assert tick_texts(ticks) == texts


def test_numbers_have_four_digits():
    assert [number_text(value) for value in (0.0, 3.14159, 1234.5678, 12, 0.000012345, math.nan)] == [
        "0",
        "3.142",
        "1,235",
        "12",
        "1.23e-5",
        "nan",
    ]
