import math
import random

import pytest

from moco_ray.report.thinning import Thinned, thin


def noisy(count: int) -> list[float]:
    draw = random.Random(3)
    return [5 * math.exp(-step / 2000) + draw.gauss(0, 0.3) for step in range(count)]


@pytest.mark.parametrize("count", [1, 3, 40, 97, 98, 1000, 20_000])
def test_keeps_first_last_and_extremes_of_what_it_was_given(count):
    values = noisy(count)
    steps, kept = thin(range(count), values, 200)
    assert len(steps) == len(kept) <= 200
    assert set(zip(steps, kept, strict=True)) <= set(enumerate(values))
    assert (steps[0], steps[-1]) == (0, count - 1)
    assert (min(kept), max(kept)) == (min(values), max(values))
    assert steps == sorted(steps)


def test_a_short_curve_stays_whole():
    assert thin(range(0, 9000, 100), values := noisy(90), 200) == (list(range(0, 9000, 100)), values)


def test_a_spike_of_one_step_is_seen_among_many():
    values = noisy(50_000)
    values[31_234] = 99.0
    assert (31_234, 99.0) in zip(*thin(range(50_000), values, 100), strict=True)


def test_means_are_those_of_all_values():
    curve = Thinned(100)
    for step, value in enumerate(noisy(10_000)):
        curve.add(step, value)
    steps, means = curve.means()
    middle = len(steps) // 2
    width = 256  # steps a bucket: 10,000 / 49, to the next power of two
    half = round(len(steps) / 80)
    around = [value for step, value in enumerate(noisy(10_000)) if middle - half <= step // width <= middle + half]
    assert means[middle] == pytest.approx(sum(around) / len(around), abs=1e-9)
    assert len(steps) <= 49


def test_what_is_not_finite_is_left_out_and_counted():
    curve = Thinned(10)
    for step, value in enumerate([1.0, math.nan, 2.0, math.inf]):
        curve.add(step, value)
    assert curve.points() == ([0, 2], [1.0, 2.0])
    assert curve.num_not_finite == 2


def test_nothing_gives_nothing():
    assert Thinned().points() == Thinned().means() == thin([], [], 10) == ([], [])
