from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from moco_ray.core.moco import MoCo, MoCoConfig, info_nce, info_nce_logits
from tests.core.tiny import tiny_encoder


def test_defaults_are_those_of_v2() -> None:
    config = MoCoConfig()
    assert (config.queue_size, config.temperature, config.encoder_momentum, config.shuffle_bn) == (65536, 0.2, 0.999, 1)


def test_key_encoder_starts_as_a_copy_head_included() -> None:
    moco = MoCo(tiny_encoder(), MoCoConfig(queue_size=10), torch.Generator())
    query, key = moco.query_encoder.state_dict(), moco.key_encoder.state_dict()
    assert query.keys() == key.keys() and any(name.startswith("projector.") for name in key)
    assert all(torch.equal(query[name], key[name]) for name in query)
    assert not {p.data_ptr() for p in moco.query_encoder.parameters()} & {
        p.data_ptr() for p in moco.key_encoder.parameters()
    }
    assert moco.queue.keys.shape == (10, 8)


def test_loss_is_that_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, queue = (F.normalize(torch.randn(n, 6, generator=generator).double(), dim=1) for n in (5, 5, 9))
    loss, num_correct = info_nce(info_nce_logits(q, k, queue, 0.07))
    expected, correct = 0.0, 0
    for query, key in zip(q.tolist(), k.tolist(), strict=True):
        scores = [sum(a * b for a, b in zip(query, other, strict=True)) / 0.07 for other in [key, *queue.tolist()]]
        expected -= math.log(math.exp(scores[0]) / sum(map(math.exp, scores)))
        correct += scores[0] == max(scores)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert int(num_correct) == correct


def test_loss_of_an_uninformed_model_is_log_of_k_plus_one() -> None:
    logits = torch.zeros(4, 10)
    assert info_nce(logits)[0].item() / 4 == pytest.approx(math.log(10))


def test_accuracy_counts_queries_whose_key_comes_first() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0], [0.0, -1.0, -2.0]])
    assert int(info_nce(logits)[1]) == 2
