"""Measures of classifiers, held to scikit-learn and torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, log_loss, recall_score, roc_auc_score, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy

from moco_ray.evaluate.classification import auroc, classification, largest_class


def _answers(num_classes: int, n: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(num_classes)
    labels = random.integers(0, num_classes - 1, n)  # the last class has no image
    logits = random.normal(size=(n, num_classes)).astype(np.float32)
    logits[np.arange(n), labels] += 1
    return torch.from_numpy(logits), torch.from_numpy(labels)


@pytest.mark.parametrize("num_classes", [3, 5, 12])
def test_measures_are_those_of_other_libraries(num_classes: int) -> None:
    logits, labels = _answers(num_classes)
    found = dict(classification(logits, labels))
    every, guessed, true = range(num_classes), logits.argmax(dim=1).numpy(), labels.numpy()
    top1 = 100 * float(multiclass_accuracy(logits, labels, num_classes, average="micro"))
    assert found["eval/top1"] == pytest.approx(top1, rel=1e-6)
    assert found["eval/top1_error"] == pytest.approx(math.sqrt(top1 * (100 - top1) / 300))
    assert ("eval/top5" in found) == (num_classes > 5)
    if num_classes > 5:
        assert found["eval/top5"] == pytest.approx(
            100 * top_k_accuracy_score(true, logits.numpy(), k=5, labels=list(every))
        )
    chances = logits.double().softmax(dim=1).numpy()
    assert found["eval/loss"] == pytest.approx(log_loss(true, chances, labels=list(every)))
    recalls = recall_score(true, guessed, labels=list(every[:-1]), average=None)
    assert found["per_class"] == [*(pytest.approx(100 * value) for value in recalls), None]
    assert found["eval/mean_class_top1"] == pytest.approx(100 * recalls.mean())
    assert found["confusion"] == confusion_matrix(true, guessed, labels=list(every)).tolist()
    assert found["eval/num_images"] == 300


def test_of_many_classes_no_confusion_is_kept() -> None:
    assert "confusion" not in dict(classification(*_answers(51)))


def test_auroc_passes_over_what_nobody_knows() -> None:
    random = np.random.default_rng(0)
    targets = random.integers(0, 2, (200, 4)).astype(np.float32)
    logits = (random.normal(size=(200, 4)) + targets).astype(np.float32)
    logits[::3, 0] = 0.25  # ties
    targets[random.random((200, 4)) < 0.3] = np.nan
    targets[:, 2] = np.where(np.isnan(targets[:, 2]), np.nan, 1)  # nobody is without it
    targets[:, 3] = np.nan
    found = dict(auroc(torch.from_numpy(logits), torch.from_numpy(targets), ("a", "b", "all", "none")))
    known = ~np.isnan(targets)
    areas = [100 * roc_auc_score(targets[known[:, i], i], logits[known[:, i], i]) for i in (0, 1)]
    assert [found["eval/auroc/a"], found["eval/auroc/b"]] == pytest.approx(areas, rel=1e-6)
    assert found["eval/auroc"] == pytest.approx(np.mean(areas), rel=1e-6)
    assert "eval/auroc/all" not in found and "eval/auroc/none" not in found
    chances = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = log_loss(targets[known].astype(int), chances[known])
    assert found["eval/loss"] == pytest.approx(expected)


def test_auroc_tells_apart_scores_that_are_all_nearly_certain() -> None:
    logits, targets = torch.tensor([[30.0], [40.0], [50.0], [60.0]]), torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    assert dict(auroc(logits, targets, ("a",)))["eval/auroc"] == 100


def test_auroc_needs_images_with_a_label_and_without() -> None:
    with pytest.raises(ValueError, match="AUROC needs both"):
        list(auroc(torch.zeros(3, 1), torch.ones(3, 1), ("a",)))


def test_always_naming_the_largest_class_gives_its_share() -> None:
    assert largest_class(np.array([0, 2, 2, 1, 2])) == pytest.approx(60)
