"""A linear classifier on features that are there: logistic regression to convergence, its regularisation searched."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRENGTHS = tuple(float(value) for value in 10.0 ** np.arange(-5, 3))
"""C of scikit-learn's LogisticRegression that are tried: one over the weight of the L2 penalty."""

_HELD_OUT = 0.2
_MOST_ITERATIONS = 2000
_PATIENCE = 2
_NEWTON_WEIGHTS = 2000

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LinearFit:
    """What was found."""

    logits: Array
    """(n, outputs) of the test features."""
    strength: float
    """The C that was best on the training images that were held out for that."""
    tried: dict[float, float]
    """Of each C its top-1 there, in percent."""
    converged: bool
    """Whether the solver came to an end by itself."""


def fit_linear(
    train: NDArray[np.float32],
    labels: NDArray[np.int64],
    test: NDArray[np.float32],
    num_classes: int,
    *,
    seed: int,
    strengths: Sequence[float] = STRENGTHS,
    tell: Callable[[float, float], None] = lambda strength, score: None,
) -> LinearFit:
    """Fit multinomial logistic regression on standardised features, by Newton's method or L-BFGS in float64.

    C is chosen on a fifth of the training images (of each class), never on those of the test; then all are fitted.

    Args:
        train: (N, d) features to learn from.
        labels: (N,) their classes.
        test: (n, d) features to classify.
        num_classes: Classes in all; those without an image to learn from get a logit of -inf.
        seed: Of what is held out.
        strengths: The C to try, ascending; those after two that are worse than the one before them are left out.
        tell: Is told each C and what it gave.

    Raises:
        ValueError: There is one class alone.
    """
    if len(np.unique(labels)) < 2:
        raise ValueError("the images to learn from are all of one class: there is nothing to tell apart")
    held = _held_out(labels, seed)
    center, scale = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    x, z = ((part - center) / np.where(scale > 0, scale, 1.0) for part in (train, test))
    tried = {}
    if held.any() and len(np.unique(labels[~held])) > 1:
        for strength in strengths:
            model, _ = _fit(x[~held], labels[~held], strength)
            tried[strength] = 100 * float((model.predict(x[held]) == labels[held]).mean())
            tell(strength, tried[strength])
            scores = list(tried.values())
            if len(scores) > _PATIENCE and max(scores[-_PATIENCE:]) < scores[-_PATIENCE - 1]:
                break  # the larger C is, the longer it takes
    best = max(tried, key=lambda c: tried[c]) if tried else 1.0
    model, converged = _fit(x, labels, best)
    logits = np.full((len(z), num_classes), -np.inf)
    scores = model.decision_function(z)
    logits[:, model.classes_] = np.stack([-scores, scores], axis=1) / 2 if scores.ndim == 1 else scores
    return LinearFit(logits=logits, strength=best, tried=tried, converged=converged)


def _held_out(labels: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """A fifth of the images of each class that has several."""
    held = np.zeros(len(labels), dtype=bool)
    random = np.random.default_rng(seed)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        held[rows[: round(_HELD_OUT * len(rows))]] = len(rows) > 1
    return held


def _fit(x: Array, labels: NDArray[np.int64], strength: float) -> tuple[Any, bool]:
    """A fitted model, and whether its solver has converged."""
    from sklearn.exceptions import ConvergenceWarning  # here, because it takes a second to import
    from sklearn.linear_model import LogisticRegression

    num_weights = (x.shape[1] + 1) * len(np.unique(labels))
    # Newton's steps are few where features are much alike, which L-BFGS takes thousands for; their matrix must be small.
    solver = "newton-cholesky" if num_weights <= _NEWTON_WEIGHTS else "lbfgs"
    model = LogisticRegression(C=strength, max_iter=_MOST_ITERATIONS, tol=1e-5, solver=solver)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.fit(x, labels)
    return model, not any(issubclass(warning.category, ConvergenceWarning) for warning in said)
