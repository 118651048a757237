"""How well a classifier tells labelled images apart."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from moco_ray.config.eval import EvalConfig
from moco_ray.config.views import ViewsConfig
from moco_ray.evaluate.eval_set import EvalSet
from moco_ray.evaluate.features import ImageSet
from moco_ray.evaluate.measure import features_of

_TOP = 5
_MOST_CONFUSED = 50
"""Classes of which a confusion matrix is kept."""


def evaluate_classifier(
    network: nn.Module,
    eval_set: EvalSet,
    views: ViewsConfig,
    config: EvalConfig,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[str, Any]]:
    """Classify the centre crops of images, on the device on which the network is.

    Args:
        network: Images (N, 3, H, W) -> logits (N, classes). Its mode is restored.
        eval_set: On what.
        views: Crop and standardisation.
        config: The shorter side before the crop.
        tell: Called now and then with the images that are done and those in all.

    Yields:
        As `classification` or, with several labels an image, `auroc` say, and eval/bad_images: those left out.
    """
    images, done = eval_set.queries, 0

    def count(number: int) -> None:
        nonlocal done
        done += number
        tell(done, len(images))

    count(0)
    found = features_of(network, _with_places(images), views, config, count)
    logits, places = found.features.cpu(), found.labels.cpu()
    if images.manifest.target_names:
        rows = images.manifest.targets(images.rows[places.numpy()])
        yield from auroc(logits, torch.from_numpy(np.stack(rows or [])), eval_set.classes)
    else:
        yield from classification(logits, torch.from_numpy(images.labels)[places])
    if found.num_bad:
        yield "eval/bad_images", float(found.num_bad)


def _with_places(images: ImageSet) -> ImageSet:
    """The same images, labelled with their places in the set: some may not decode."""
    return replace(images, labels=np.arange(len(images)))


def classification(logits: Tensor, labels: Tensor) -> Iterator[tuple[str, Any]]:
    """Measures of classes.

    Args:
        logits: (N, classes).
        labels: (N,) int64.

    Yields:
        eval/top1 and, of more than five classes, eval/top5, in percent; eval/top1_error, the standard error; eval/loss, the
        cross-entropy; eval/mean_class_top1, the mean over classes; eval/num_images; per_class, of each class its top-1 in
        percent, None without an image; confusion, of at most 50 classes counts by true (rows) and found class.
    """
    num_classes = logits.shape[1]
    right = logits.argmax(dim=1) == labels
    share = float(right.double().mean())
    yield "eval/top1", 100 * share
    yield "eval/top1_error", 100 * math.sqrt(share * (1 - share) / len(labels))
    if num_classes > _TOP:
        yield "eval/top5", 100 * float((logits.topk(_TOP, dim=1).indices == labels[:, None]).any(dim=1).double().mean())
    yield "eval/loss", float(F.cross_entropy(logits.double(), labels))
    counts = torch.bincount(labels, minlength=num_classes)
    correct = torch.bincount(labels[right], minlength=num_classes)
    yield "eval/mean_class_top1", 100 * float((correct[counts > 0] / counts[counts > 0]).double().mean())
    yield "eval/num_images", float(len(labels))
    yield "per_class", [100 * c / n if n else None for c, n in zip(correct.tolist(), counts.tolist(), strict=True)]
    if num_classes <= _MOST_CONFUSED:
        pairs = torch.bincount(labels * num_classes + logits.argmax(dim=1), minlength=num_classes**2)
        yield "confusion", pairs.view(num_classes, num_classes).tolist()


def auroc(logits: Tensor, targets: Tensor, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Measures of several labels an image.

    Args:
        logits: (N, labels).
        targets: (N, labels): 1, 0, or NaN where nobody knows.
        names: Of the labels.

    Yields:
        eval/auroc, the mean area under the ROC curve in percent over the labels that some images have and others have not,
        and eval/auroc/NAME of each; eval/loss, the binary cross-entropy of what is known; eval/num_images.

    Raises:
        ValueError: There is no such label.
    """
    from torchmetrics.functional.classification import binary_auroc  # here, because it takes a second to import

    areas = {}
    for name, scores, truth in zip(names, logits.T.double(), targets.T, strict=True):
        known = ~truth.isnan()
        if 0 < float(truth[known].sum()) < int(known.sum()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                areas[name] = 100 * float(binary_auroc(_ranks(scores[known]), truth[known].long()))
    if not areas:
        raise ValueError("no label is both there and not there among the images to evaluate on: AUROC needs both")
    yield "eval/auroc", sum(areas.values()) / len(areas)
    for name, area in areas.items():
        yield f"eval/auroc/{name}", area
    known = ~targets.isnan()
    losses = F.binary_cross_entropy_with_logits(logits.double(), targets.nan_to_num().double(), reduction="none")
    yield "eval/loss", float(losses[known].mean())
    yield "eval/num_images", float(len(logits))


def _ranks(scores: Tensor) -> Tensor:
    """Numbers in [0, 1) in the order of the scores: sigmoids of large ones would all be 1."""
    values, places = scores.unique(return_inverse=True)
    ranks: Tensor = places.double() / len(values)
    return ranks


def largest_class(labels: NDArray[np.int64]) -> float:
    """Percent of images of the most frequent class: what always naming it gives."""
    return 100 * float(np.bincount(labels).max()) / len(labels)
