"""The converged linear classifier: what it can learn it learns, and what is not there it does not find."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from moco_ray.evaluate.linear import LinearFit, fit_linear

Features, Labels = NDArray[np.float32], NDArray[np.int64]


def _blobs(n: int, num_classes: int, distance: float, seed: int) -> tuple[Features, Labels]:
    """Gaussians around as many corners as there are classes, in unlike units."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % num_classes
    features = random.normal(size=(n, 8)) + distance * np.eye(8)[labels]
    return (features * 10.0 ** np.arange(-3, 5) + 7).astype(np.float32), labels


def _top1(fit: LinearFit, labels: Labels) -> float:
    return 100 * float((fit.logits.argmax(axis=1) == labels).mean())


@pytest.mark.parametrize("num_classes", [2, 5])
def test_what_can_be_told_apart_is(num_classes: int) -> None:
    train, labels = _blobs(200, num_classes, 30, seed=0)
    test, truth = _blobs(100, num_classes, 30, seed=1)
    fit = fit_linear(train, labels, test, num_classes, seed=0)
    assert _top1(fit, truth) == 100 and fit.converged and fit.logits.shape == (100, num_classes)


def test_labels_at_random_give_chance() -> None:
    random = np.random.default_rng(0)
    train, test = (random.normal(size=(n, 8)).astype(np.float32) for n in (300, 1000))
    fit = fit_linear(train, random.integers(0, 4, 300), test, 4, seed=0)
    assert abs(_top1(fit, random.integers(0, 4, 1000)) - 25) < 3 * 100 * np.sqrt(0.25 * 0.75 / 1000)


def test_the_strength_is_chosen_without_the_test_images() -> None:
    labels = np.arange(150) % 3
    train = np.random.default_rng(0).normal(size=(150, 60)).astype(np.float32)
    train[:, :3] += np.eye(3, dtype=np.float32)[labels]  # among much that means nothing
    told: list[tuple[float, float]] = []
    first = fit_linear(train, labels, train[:5], 3, seed=0, tell=lambda c, top1: told.append((c, top1)))
    other = fit_linear(train, labels, -100 * train[:5], 3, seed=0)
    assert first.tried == other.tried == dict(told) and first.strength == other.strength
    assert first.tried[first.strength] == max(first.tried.values()) and len(set(first.tried.values())) > 1


def test_it_is_scikit_learns_fit_of_standardised_features() -> None:
    train, labels = _blobs(120, 3, 1.5, seed=0)
    test, _ = _blobs(50, 3, 1.5, seed=1)
    fit = fit_linear(train, labels, test, 3, seed=0, strengths=(0.1,))
    center, scale = train.astype(np.float64).mean(axis=0), train.astype(np.float64).std(axis=0)
    model = LogisticRegression(C=0.1, max_iter=5000, tol=1e-8).fit((train - center) / scale, labels)
    np.testing.assert_allclose(fit.logits, model.decision_function((test - center) / scale), atol=1e-3)


def test_two_classes_have_logits_whose_softmax_is_the_models() -> None:
    train, labels = _blobs(100, 2, 1.0, seed=0)
    fit = fit_linear(train, labels, train, 2, seed=0, strengths=(1.0,))
    center, scale = train.astype(np.float64).mean(axis=0), train.astype(np.float64).std(axis=0)
    model = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit((train - center) / scale, labels)
    chances = np.exp(fit.logits[:, 1]) / np.exp(fit.logits).sum(axis=1)
    np.testing.assert_allclose(chances, model.predict_proba((train - center) / scale)[:, 1], atol=1e-3)


def test_a_class_without_an_image_to_learn_from_is_never_found() -> None:
    train, labels = _blobs(60, 2, 3.0, seed=0)
    fit = fit_linear(train, 2 * labels, train, 4, seed=0, strengths=(1.0,))
    assert set(fit.logits.argmax(axis=1)) == {0, 2} and np.isneginf(fit.logits[:, [1, 3]]).all()


def test_a_feature_that_never_changes_is_no_harm() -> None:
    train, labels = _blobs(60, 3, 30.0, seed=0)
    train[:, 7] = 5
    assert _top1(fit_linear(train, labels, train, 3, seed=0), labels) == 100


def test_few_images_are_fitted_too() -> None:
    train, labels = _blobs(3, 3, 30.0, seed=0)
    fit = fit_linear(train, labels, train, 3, seed=0)
    assert fit.tried == {} and _top1(fit, labels) == 100


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="all of one class"):
        fit_linear(np.zeros((5, 2), np.float32), np.ones(5, np.int64), np.zeros((1, 2), np.float32), 3, seed=0)
