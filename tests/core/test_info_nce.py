from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from moco_ray.core.info_nce import info_nce, info_nce_logits


def test_loss_is_that_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, queue = (F.normalize(torch.randn(n, 6, generator=generator).double(), dim=1) for n in (5, 5, 9))
    loss, num_correct, cosine = info_nce(info_nce_logits(q, k, queue, 0.07), torch.zeros(5, dtype=torch.int64), 0.07)
    expected, correct = 0.0, 0
    for query, key in zip(q.tolist(), k.tolist(), strict=True):
        scores = [sum(a * b for a, b in zip(query, other, strict=True)) / 0.07 for other in [key, *queue.tolist()]]
        expected -= math.log(math.exp(scores[0]) / sum(map(math.exp, scores)))
        correct += scores[0] == max(scores)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert int(num_correct) == correct
    assert cosine.item() == pytest.approx((q * k).sum().item(), rel=1e-12)


def test_loss_of_an_uninformed_model_is_log_of_k_plus_one() -> None:
    logits = torch.zeros(4, 10)
    labels = torch.tensor([0, 3, 9, 0])
    assert info_nce(logits, labels, 0.2).total.item() / 4 == pytest.approx(math.log(10))


def test_accuracy_counts_queries_whose_key_comes_first() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0], [0.0, -1.0, -2.0]])
    assert int(info_nce(logits, torch.zeros(3, dtype=torch.int64), 0.2).num_correct) == 2
    assert int(info_nce(logits, torch.tensor([0, 1, 2]), 0.2).num_correct) == 2
