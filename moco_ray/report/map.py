"""A map of images by their features: what lies together looks alike to the encoder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco_ray.report.thumbs import data_uri
from moco_ray.storage.uris import shown

WIDTH, HEIGHT, THUMB = 640, 440, 34
_MOST_POINTS, _MOST_THUMBS, _MARGIN = 1500, 110, 22
_FEWEST = 4

Floats = NDArray[np.floating[Any]]


def make_map(
    features: Floats,
    labels: Sequence[int],
    classes: Sequence[str],
    pixels: Sequence[NDArray[np.uint8]],
    *,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Lay images out in two dimensions; None where there are too few, or features that are not finite.

    Args:
        features: (n, d).
        labels: n of them, -1 without one.
        classes: Their names.
        pixels: The images.
        seed: Of UMAP.

    Returns:
        method, points [x, y, label] and thumbs [x, y, label, src] in a picture of WIDTH x HEIGHT, classes (names by label).
    """
    if len(features) < _FEWEST or not np.isfinite(features).all():
        return None
    normed = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    places, method = _by_umap(normed, seed) or _by_pca(normed)
    low, high = places.min(axis=0), places.max(axis=0)
    shares = (places - low) / np.maximum(high - low, 1e-12)
    corner, size = np.array([_MARGIN, _MARGIN]), np.array([WIDTH - 2 * _MARGIN, HEIGHT - 2 * _MARGIN])
    at = np.round(corner + shares * size, 1)
    order = np.random.default_rng(seed).permutation(len(at))[:_MOST_POINTS]
    chosen: list[int] = []
    for i in order.tolist():
        if len(chosen) == _MOST_THUMBS:
            break
        if all(np.abs(at[i] - at[j]).max() >= THUMB for j in chosen):
            chosen.append(i)
    rest = np.setdiff1d(order, chosen).tolist()
    occurring = sorted({int(labels[i]) for i in order})
    return {
        "method": method,
        "points": [[*at[i].tolist(), int(labels[i])] for i in rest],
        "thumbs": [[*at[i].tolist(), int(labels[i]), data_uri(pixels[i], 56)] for i in chosen],
        "classes": {str(label): shown(classes[label])[:80] for label in occurring if 0 <= label < len(classes)},
    }


def _by_pca(features: Floats) -> tuple[Floats, str]:
    centred = features - features.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    power = values**2
    share = 100 * float(power[:2].sum() / max(float(power.sum()), 1e-30))
    places = left[:, :2] * values[:2]
    if places.shape[1] < 2:
        places = np.pad(places, ((0, 0), (0, 1)))
    return places, f"PCA: the two directions hold {share:.0f} % of the variance"


def _by_umap(features: Floats, seed: int) -> tuple[Floats, str] | None:
    """None where umap-learn is not installed, or fails."""
    try:
        import umap  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            near = min(15, len(features) - 1)
            found = umap.UMAP(n_neighbors=near, metric="cosine", random_state=seed).fit_transform(features)
    except Exception:  # another way of drawing is at hand
        return None
    places = np.asarray(found, dtype=np.float64)
    return (places, "UMAP") if np.isfinite(places).all() else None
