from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from moco_ray.core.info_nce import info_nce, info_nce_logits, info_nce_of_negatives


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


@pytest.mark.parametrize("temperature", [1.0, 0.07, 1e-3])  # at the last one exp(1 / tau) is no float64
@pytest.mark.parametrize("num_negatives", [1, 2048, 5000])  # a part of a chunk, one chunk, and several
def test_loss_in_chunks_and_its_gradient_are_those_of_all_logits(num_negatives: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, negatives = (
        F.normalize(torch.randn(n, 6, generator=generator).double(), dim=1) for n in (7, 7, num_negatives)
    )
    k[:3] = F.normalize(q[:3] + 0.01 * k[:3], dim=1)  # some keys are found
    found, gradients = [], []
    for is_chunked in (True, False):
        own = q.clone().requires_grad_()
        if is_chunked:
            loss = info_nce_of_negatives(own, k, negatives, temperature)
        else:
            labels = torch.zeros(7, dtype=torch.int64)
            loss = info_nce(info_nce_logits(own, k, negatives, temperature), labels, temperature)
        (loss.total / 7).backward()
        found.append([loss.total.detach(), loss.num_correct, loss.cosine])
        gradients.append(own.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-11, atol=1e-13 / temperature)


def test_loss_in_chunks_has_no_gradient_where_queries_have_none() -> None:
    q, negatives = (F.normalize(torch.randn(n, 6), dim=1) for n in (3, 9))
    assert not info_nce_of_negatives(q, q, negatives, 0.2).total.requires_grad
    loss = info_nce_of_negatives(q.clone().requires_grad_(), q, negatives, 0.2)
    assert loss.total.requires_grad and not loss.num_correct.requires_grad and not loss.cosine.requires_grad


def test_a_key_that_a_negative_equals_is_found() -> None:
    q = torch.eye(3, 6)
    assert int(info_nce_of_negatives(q, q, torch.cat([q, -q]), 0.2).num_correct) == 3
