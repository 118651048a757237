from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from moco_ray.evaluate import knn
from moco_ray.evaluate.knn import knn_predict, knn_top1


def slow_predictions(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor,
    k: int,
    temperature: float,
    bank_ids: Tensor,
    query_ids: Tensor,
) -> list[int]:
    """The definition, one query and one neighbour at a time, in Python floats."""
    predictions = []
    for query, query_id in zip(queries.tolist(), query_ids.tolist(), strict=True):
        neighbours = []
        for image, label, image_id in zip(bank.tolist(), labels.tolist(), bank_ids.tolist(), strict=True):
            if image_id != query_id:
                dot = sum(a * b for a, b in zip(query, image, strict=True))
                neighbours.append((dot / math.hypot(*query) / math.hypot(*image), label))
        votes: dict[int, float] = {}
        for similarity, label in sorted(neighbours, reverse=True)[:k]:
            votes[label] = votes.get(label, 0.0) + math.exp(similarity / temperature)
        predictions.append(max(votes, key=lambda label: votes[label]))
    return predictions


def random_problem(*, num_bank: int = 150, num_queries: int = 60) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(num_bank, 6, generator=generator) * torch.rand(num_bank, 1, generator=generator)
    labels = torch.randint(0, 4, (num_bank,), generator=generator)
    queries = torch.randn(num_queries, 6, generator=generator)
    queries[:20] = bank[:20]
    bank_ids = torch.arange(num_bank)
    query_ids = torch.cat([torch.arange(20), torch.arange(1000, 1000 + num_queries - 20)])
    return bank, labels, queries, bank_ids, query_ids


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (20, 0.1), (20, 1.0), (1000, 0.07)])
def test_predictions_equal_the_definition(k: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "_CHUNK_ELEMENTS", 150 * 7)  # 7 queries a chunk, which does not divide 60
    bank, labels, queries, bank_ids, query_ids = random_problem()
    predictions, _ = knn_predict(
        bank,
        labels,
        queries,
        num_classes=4,
        k=k,
        temperature=temperature,
        bank_ids=bank_ids,
        query_ids=query_ids,
    )
    expected = slow_predictions(bank, labels, queries, k, temperature, bank_ids, query_ids)
    assert predictions.tolist() == expected


def test_top1_is_the_percentage_of_right_predictions() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    queries = torch.tensor([[3.0, 0.1], [0.2, 5.0], [0.1, 0.2], [9.0, 1.0]])
    top1 = knn_top1(bank, torch.tensor([0, 1]), queries, torch.tensor([0, 1, 0, 0]), num_classes=2, k=1)
    assert top1 == 75.0


def test_k_larger_than_the_bank_uses_the_whole_bank() -> None:
    bank, labels, queries, _, _ = random_problem(num_bank=30)
    all_of_it = knn_predict(bank, labels, queries, num_classes=4, k=30)[0]
    assert torch.equal(knn_predict(bank, labels, queries, num_classes=4, k=200)[0], all_of_it)


def test_a_query_does_not_vote_for_itself_when_it_is_in_the_bank() -> None:
    features = torch.eye(4)
    labels, ids = torch.tensor([0, 0, 1, 1]), torch.arange(4)
    assert knn_top1(features, labels, features, labels, num_classes=2, k=1) == 100.0
    _, neighbours = knn_predict(features, labels, features, num_classes=2, k=3, bank_ids=ids, query_ids=ids)
    assert not (neighbours == ids[:, None]).any()


def test_identical_images_under_another_name_are_no_neighbours() -> None:
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.9, 0.1]])
    labels, bank_ids = torch.tensor([0, 0, 1]), torch.tensor([7, 7, 8])
    query, query_id = torch.tensor([[1.0, 0.0]]), torch.tensor([7])
    predictions, _ = knn_predict(bank, labels, query, num_classes=2, k=3, bank_ids=bank_ids, query_ids=query_id)
    assert predictions.tolist() == [1]


def test_a_query_without_any_neighbour_counts_as_wrong() -> None:
    one, zero = torch.ones(1, 2), torch.tensor([0])
    assert knn_top1(one, zero, one, zero, num_classes=2, bank_ids=zero, query_ids=zero) == 0.0


def test_a_tiny_temperature_is_the_single_nearest_neighbour() -> None:
    bank, labels, queries, _, _ = random_problem()
    nearest = knn_predict(bank, labels, queries, num_classes=4, k=1)[0]
    assert torch.equal(knn_predict(bank, labels, queries, num_classes=4, temperature=1e-6)[0], nearest)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"k": 0}, "eval.k is 0"), ({"temperature": 0.0}, "eval.temperature is 0.0")],
)
def test_impossible_settings_are_named(change: dict[str, float], message: str) -> None:
    bank, labels, queries, _, _ = random_problem()
    with pytest.raises(ValueError, match=message):
        knn_predict(bank, labels, queries, num_classes=4, **change)  # type: ignore[arg-type]


def test_empty_bank_and_empty_queries_are_errors() -> None:
    some, none, labels = torch.ones(2, 3), torch.ones(0, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="no labelled images to compare with"):
        knn_top1(none, labels[:0], some, labels, num_classes=2)
    with pytest.raises(ValueError, match="no labelled images to classify"):
        knn_top1(some, labels, none, labels[:0], num_classes=2)
