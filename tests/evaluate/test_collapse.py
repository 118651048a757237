"""Curves of real runs on 4,000 images of CIFAR-10 (tiny_resnet, batch 256, a queue of 2,048), each 16 or 32 steps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.evaluate.collapse import Chance, ChanceWatch, fallen, patience_steps
from moco_ray.evaluate.diagnosis import Learning, diagnose

# -uniformity and RankMe
HEALTHY = {
    "lr 0.06": [(0.0567, 18.7), (0.764, 49.2), (2.1, 54.4), (1.71, 53.6), (1.89, 54.8), (2.1, 57.7), (2.68, 59.4)],
    "lr 0.3": [(0.0543, 18.1), (0.0421, 27.0), (0.389, 39.5), (0.841, 38.5), (0.69, 40.2), (0.743, 40.8)],
    "lr 0.5": [
        (0.0543, 18.1),
        (0.0016, 14.2),
        (0.0015, 17.1),
        (0.0034, 23.9),
        (0.0067, 30.0),
        (0.0106, 34.7),
        (0.0506, 37.5),
    ],
    "lr 0.3, no shuffle": [(0.0543, 18.1), (0.0337, 25.2), (0.347, 35.9), (0.989, 37.4), (0.915, 38.5), (0.957, 40.1)],
    "lr 3 after 12 epochs of warm-up": [(0.054, 18.1), (1.2, 40.7), (1.0, 25.8), (1.2, 35.7), (1.4, 33.8), (1.3, 27.1)],
    "tau 0.07": [(0.0543, 18.1), (0.424, 43.9), (0.641, 46.7), (0.559, 52.7), (0.553, 50.9), (0.616, 57.0)],
    "tau 10": [(0.0543, 18.1), (0.445, 40.1), (1.28, 62.2), (2.21, 60.5), (2.61, 59.9), (2.74, 59.0)],
    "moco-v3": [(0.499, 18.1), (2.78, 62.5), (3.64, 60.9), (3.55, 60.0), (3.47, 59.9), (3.45, 59.8)],
    "moco-v3, lr 0.05": [(0.499, 18.1), (0.965, 16.1), (1.96, 19.1), (1.99, 16.7), (2.06, 17.5), (2.28, 18.3)],
}
COLLAPSED = {
    "m 0": [(0.0543, 18.1), (0.0146, 38.7), (0.00304, 52.0), (0.00188, 54.2), (0.00204, 54.0)],
    "lr 1": [(0.0543, 18.1), (1.7e-4, 10.7), (3.5e-4, 33.9), (2.4e-4, 41.0), (4.3e-4, 37.3)],
    "lr 3": [(0.0567, 18.7), (9.5e-7, 2.5), (2e-6, 3.5), (1.2e-5, 8.8), (2.6e-5, 21.3)],
    "lr 30": [(0.0543, 18.1), (2.3e-7, 1.9), (3.2e-8, 1.4)],
    "weight decay 0.3": [(0.0543, 18.1), (0.0, 1.0), (3e-14, 1.0), (0.0, 1.0)],
}
LATER = [
    (0.0543, 18.1),
    (0.0671, 25.0),
    (0.0601, 35.6),
    (0.0233, 44.4),
    (0.0121, 48.4),
    (0.0081, 50.4),
    (0.00622, 51.3),
]
LATER += [(0.00527, 51.9), (0.00479, 52.0)]  # m 0.5, each 6 steps
LATER_SEEN = 8
LEARNING = Learning(loss=7.0, temperature=0.2, effective_lr=0.06, moved=None, encoder_momentum=0.99)


def _lines(curve: list[tuple[float, float]]) -> list[dict[str, float]]:
    return [{"step": 16 * i, "eval/uniformity": -s, "eval/rankme": r} for i, (s, r) in enumerate(curve)]


@pytest.mark.parametrize("curve", HEALTHY.values(), ids=HEALTHY)
def test_a_run_that_learns_is_never_said_to_collapse(curve: list[tuple[float, float]]) -> None:
    assert not any(fallen(_lines(curve)[:end], LEARNING) for end in range(len(curve) + 1))


@pytest.mark.parametrize("curve", COLLAPSED.values(), ids=COLLAPSED)
def test_a_run_that_collapses_at_once_has_embeddings_which_are_all_alike(curve: list[tuple[float, float]]) -> None:
    assert [cause for line in _lines(curve)[1:] for cause in diagnose(line, LEARNING)].count("collapse") >= 1


def test_a_run_whose_embeddings_come_together_later_says_from_what_to_what() -> None:
    assert not any(fallen(_lines(LATER)[:end], LEARNING) for end in range(LATER_SEEN))
    text = fallen(_lines(LATER)[:LATER_SEEN], LEARNING)
    assert text is not None and "the spread of the embeddings (-uniformity) was" in text
    assert "was 0.067 after 16 steps and is 0.0053 after 112" in text and "effective 0.06" in text


def test_two_evaluations_in_a_row_must_show_it_and_a_recovery_counts() -> None:
    good, low = (1.5, 50.0), (0.01, 50.0)
    assert fallen(_lines([low, good, good, low]), LEARNING) is None
    assert fallen(_lines([low, good, low, good, low]), LEARNING) is None
    assert fallen(_lines([low, good, low, low]), LEARNING)
    assert fallen(_lines([good, low, low, low]), LEARNING) is None  # what training began with does not count
    assert (
        fallen(_lines([low, good, low, low]), replace(LEARNING, norm_updates=19)) is None
    )  # it may be BatchNorm's alone
    assert fallen(_lines([low, good, low, low, good]), LEARNING) is None


def test_rankme_is_compared_with_trained_weights_and_where_there_is_something_to_fall_from() -> None:
    def ranks(*values: float) -> str | None:
        return fallen(_lines([(1.0, value) for value in values]), LEARNING)

    assert "RankMe of the features was 90 after 16 steps and is 20 after 48" in str(ranks(20, 90, 25, 20))
    assert ranks(300, 90, 80, 80) is None  # the weights that it began with had more
    assert ranks(20, 90, 40, 40) is None
    assert ranks(3, 5, 1.2, 1.1) is None  # of a handful of images


@pytest.mark.parametrize("name", ["eval/uniformity", "eval/rankme"])
def test_lines_without_a_measure_say_nothing_of_it(name: str) -> None:
    lines = _lines(LATER)
    assert fallen([{k: v for k, v in line.items() if k == "step"} for line in lines], LEARNING) is None
    without = fallen([{k: v for k, v in line.items() if k != name} for line in lines], LEARNING)
    assert (without is not None) == (name == "eval/rankme")


def test_the_cure_is_that_of_the_settings() -> None:
    def said(**settings: float) -> str:
        learning = Learning(**{"loss": 7.0, "temperature": 0.2, "effective_lr": 0.06, "moved": None, **settings})
        return str(fallen(_lines(LATER), learning))

    assert "raise method.encoder-momentum, which is 0, to 0.99 or more, or lower the learning rate" in said(
        encoder_momentum=0.0
    )
    assert "lower optim.weight-decay, which is 0.3" in said(weight_decay=0.3)
    assert "lower method.temperature, which is 10" in said(temperature=10.0)
    assert "momentum" not in said() and "decay" not in said() and "temperature" not in said()


_METHOD = MoCoConfig(queue_size=2048)
_CHANCE = Chance(
    loss=_METHOD.chance_loss(256),
    floor=_METHOD.floor_loss(256, 128),
    key=_METHOD.chance_key(256),
    from_step=16,
    patience=100,
)


def _says(losses: list[float], keys: list[float]) -> int | None:
    """After how many steps a run says it, with one interval every 8 steps."""
    watch = ChanceWatch(chance=_CHANCE)
    for i, (loss, key) in enumerate(zip(losses, keys, strict=True)):
        watch.see(8 * i, [loss] * 8, [key] * 8)
        if watch.words(8 * i + 8, loss, key, LEARNING):
            return 8 * i + 8
    return None


def test_a_loss_at_chance_is_said_after_its_time_and_one_that_leaves_it_begins_anew() -> None:
    assert _CHANCE.loss == pytest.approx(7.625, abs=1e-3) and _CHANCE.key == pytest.approx(0.0488, abs=1e-4)
    assert _says([6.591, 7.3] + [7.624] * 30, [80.0] + [1.0] * 31) == 16 + 104  # momentum 0: the keys are rounding
    assert _says([7.61] * 10 + [7.5] + [7.61] * 12, [1.0] * 23) is None
    assert _says([6.35, 7.32, 7.208, 7.08] + [6.7] * 30, [35.0, 0.8, 1.0] + [1.3] * 31) is None  # healthy
    assert _says([5.0] * 30, [0.06] * 30) == 16 + 104  # keys alone
    assert _says([7.617, 7.617] + [7.0] * 30, [1.0] * 32) is None


def test_it_is_waited_for_longer_in_a_longer_run_and_not_longer_than_five_epochs() -> None:
    assert patience_steps(50, 8) == 100
    assert patience_steps(200_000, 50_000) == 10_000
    assert patience_steps(200_000, 1_000) == 5_000


@pytest.mark.parametrize("key", [50.0, 33.3, 2.0])
def test_keys_that_are_found_where_there_are_few_others_are_no_chance(key: float) -> None:
    watch = ChanceWatch(chance=replace(_CHANCE, loss=math.log(100 / key), floor=0.0, key=key))
    watch.see(_CHANCE.from_step, [0.001], [100.0])
    assert watch.since is None
    watch.see(_CHANCE.from_step + 1, [0.4 * math.log(100 / key)], [key])
    assert watch.since is not None
