from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from moco_ray.config.eval import EvalConfig
from moco_ray.evaluate.against_chance import default_neighbours, knn_context
from moco_ray.evaluate.diagnosis import Learning, diagnose
from moco_ray.evaluate.eval_set import EvalSet
from moco_ray.evaluate.measure import evaluate
from moco_ray.evaluate.words import describe_eval_set, describe_evaluation
from tests.evaluate.test_monitor import COLOUR_VIEWS, colour_encoder, eval_set_of, made_up, manifest_of, write_colours


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([400] * 10, 200), ([5000] * 10, 200), ([21] * 10, 10), ([10] * 1000, 5), ([1, 1, 1], 1), ([1000, 6, 6], 3)],
)
def test_fewer_neighbours_vote_where_classes_are_small(sizes: list[int], expected: int) -> None:
    assert default_neighbours(np.repeat(np.arange(len(sizes)), sizes)) == expected


def test_a_figure_comes_with_chance_the_largest_class_and_its_error() -> None:
    bank, queries = np.array([0] * 6 + [1] * 3 + [3]), np.array([0] * 10 + [1] * 30)
    context = knn_context(bank, queries, top1=70.0, k=4)
    assert (context["eval/knn_k"], context["eval/knn_bank"], context["eval/knn_queries"]) == (4, 10, 40)
    assert context["eval/knn_chance"] == pytest.approx(100 / 3)
    assert context["eval/knn_largest_class"] == 25
    assert context["eval/knn_error"] == pytest.approx(100 * math.sqrt(0.7 * 0.3 / 40))
    assert knn_context(bank, queries, top1=100.0, k=4)["eval/knn_error"] > 0


def test_the_number_that_votes_is_recorded_and_an_explicit_one_is_obeyed(tmp_path: Path) -> None:
    manifest = manifest_of(write_colours(tmp_path, {"a": 0, "b": 1}, 30))
    for k, used in ((None, 13), (27, 27)):
        config = EvalConfig(k=k)
        values = dict(evaluate(colour_encoder(), eval_set_of(manifest, None, config), COLOUR_VIEWS, config))
        assert values["eval/knn_k"] == used
        assert values["eval/knn_top1"] == 100


def _said(eval_set: EvalSet, config: EvalConfig, classes: tuple[str, ...], labels: list[int]) -> str:
    train = made_up(classes, labels)
    return "\n".join(describe_eval_set(eval_set, config, train, np.arange(len(train))))


def test_classes_of_one_picture_have_no_knn_and_hold_nothing_out() -> None:
    classes, labels = tuple(f"c{i}" for i in range(40)), list(range(40))
    chosen = eval_set_of(made_up(classes, labels), None, EvalConfig())
    assert not chosen.has_labels and len(chosen.queries) == 40
    assert "no class has two images" in _said(chosen, EvalConfig(), classes, labels)


def test_a_test_folder_with_a_class_of_its_own_is_said() -> None:
    held_out = made_up(("a", "z"), [0, 1] * 5)
    config = EvalConfig(uri="t")
    chosen = eval_set_of(made_up(("a", "b"), [0, 1] * 10), held_out, config)
    said = _said(chosen, config, ("a", "b"), [0, 1] * 10)
    assert "to classify by the others" in said and "guessing gives 50.0 %" in said


def test_images_of_classes_without_another_image_bound_the_figure() -> None:
    train = made_up(("a", "b", "c"), [0, 1] * 10)
    config = EvalConfig(uri="t")
    chosen = eval_set_of(train, made_up(("a", "c"), [0, 0, 0, 1]), config)
    assert "kNN reaches 75 % at most" in _said(chosen, config, ("a", "b", "c"), [0, 1] * 10)


def test_test_images_that_are_trained_on_are_said() -> None:
    labels = [0, 1] * 10
    config = EvalConfig(uri="t")
    chosen = eval_set_of(made_up(("a", "b"), labels), made_up(("a", "b"), labels), config)
    assert "20 of 20 images of eval.uri t are training images, too" in _said(chosen, config, ("a", "b"), labels)


def test_a_line_has_error_untrained_and_guessing_and_fits_80_columns() -> None:
    first = {"step": 0, "eval/knn_top1": 43.1, "eval/rankme": 21.3, "eval/alignment": 0.1, "eval/uniformity": -2.0}
    first |= {"eval/knn_error": 3.5, "eval/knn_chance": 10.0, "eval/knn_largest_class": 22.0}
    later = first | {"step": 100_000, "eval/knn_top1": 54.4}
    lines = [*describe_evaluation(first, None), *describe_evaluation(later, first)]
    assert lines[0] == "untrained encoder: kNN 43.1 ± 3.5 % (guessing 10.0, largest class 22.0)"
    assert lines[2] == "encoder after 100,000 steps: kNN 54.4 ± 3.5 % (untrained 43.1, guessing 10.0)"
    assert max(map(len, lines)) <= 80


def test_lines_of_an_older_version_are_still_told() -> None:
    assert describe_evaluation({"step": 5, "eval/knn_top1": 50.0, "eval/rankme": 2.0}, None) == [
        "encoder after 5 steps: kNN 50.0 %",
        "    RankMe 2.0",
    ]


def test_flat_and_identical_images_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        image = np.full((16, 16, 3), 100, np.uint8) if i < 15 else rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "a" / f"{i}.png"), image)
    chosen = eval_set_of(manifest_of(tmp_path / "a"), None, EvalConfig())
    values = dict(evaluate(colour_encoder(), chosen, COLOUR_VIEWS, EvalConfig()))
    assert (values["eval/flat"], values["eval/distinct"]) == (0.75, 0.3)


LEARNS = Learning(loss=3.0, temperature=0.2, effective_lr=0.03, moved=0.01)
LINE = {"step": 10, "eval/rankme": 9.0, "eval/uniformity": -1.2, "eval/flat": 0.0, "eval/distinct": 1.0}


@pytest.mark.parametrize(
    ("line", "learning", "cause"),
    [
        ({}, {}, None),
        ({"step": 0, "eval/uniformity": -1e-4}, {"loss": None, "moved": None}, None),  # an untrained encoder may be so
        ({"eval/flat": 0.9, "step": 0}, {}, "flat"),
        ({"eval/distinct": 0.1, "step": 0}, {}, "identical"),
        ({"eval/uniformity": -1e-5}, {}, "collapse"),
        ({"eval/uniformity": -1e-4}, {"temperature": 0.01}, "collapse"),
        ({"eval/uniformity": -1e-5}, {"norm_updates": 3}, "unsettled"),
        ({"eval/uniformity": -1e-5}, {"norm_updates": 20}, "collapse"),
        ({}, {"norm_updates": 3}, None),
        ({}, {"temperature": 0.001}, "temperature"),
        ({}, {"loss": 0.0, "temperature": 0.01}, "temperature"),
        ({}, {"moved": 1e-9}, "still"),
        ({"eval/flat": 1.0, "eval/uniformity": 0.0}, {"moved": 0.0}, "flat"),  # the cause, and not what follows from it
    ],
)
def test_a_run_that_learns_nothing_is_told_the_cause(
    line: dict[str, float], learning: dict[str, float], cause: str | None
) -> None:
    found = diagnose(LINE | line, Learning(**{**LEARNS.__dict__, **learning}))
    assert list(found) == ([cause] if cause else [])
