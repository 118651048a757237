from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from moco_ray.evaluate.at_scale.keys import NO_KEY, Found, Nearest, keys_of, places_of, similarities_of
from moco_ray.evaluate.at_scale.nearest import _find, _Prepared, make_queries
from moco_ray.evaluate.at_scale.votes import accuracies
from moco_ray.evaluate.knn import votes


class OnCpu:
    """What `_Prepared` asks of a worker."""

    def __init__(self, dtype: str = "float32") -> None:
        self.device = torch.device("cpu")
        self.spec = type("Spec", (), {"dtype": dtype})


def features(n: int, seed: int, d: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32) + 0.5


def find(bank: np.ndarray, queries: np.ndarray, k: int, order: list[int], workers: int, chunk: int = 50) -> Nearest:
    """Chunks of the bank in some order, dealt to some workers."""
    ids = np.arange(len(queries)) + 10**6
    shared = make_queries({"m": queries}, ids, k)
    prepared = [_Prepared(OnCpu(), shared) for _ in range(workers)]  # type: ignore[arg-type]
    found = Nearest(len(queries), k)
    for turn, number in enumerate(order):
        places = np.arange(number * chunk, min(len(bank), (number + 1) * chunk))
        found.add(_find(prepared[turn % workers], "m", torch.from_numpy(bank[places]), places, places))
    return found


def test_keys_are_ordered_as_similarities_and_then_by_place() -> None:
    similarities = torch.tensor([[-1.0, -0.5, -0.0, 0.0, 1e-30, 0.5, 0.5, 1.0]])
    keys = keys_of(similarities, torch.arange(8))
    assert keys.topk(8).indices.tolist() == [[7, 5, 6, 4, 2, 3, 1, 0]]
    assert torch.equal(similarities_of(keys), similarities)
    assert torch.equal(places_of(keys), torch.arange(8)[None])
    assert similarities_of(torch.tensor([NO_KEY])).item() == -torch.inf


@pytest.mark.parametrize("chunk", [7, 50, 1000])
def test_neighbours_are_those_of_one_exact_search(chunk: int) -> None:
    bank, queries = features(433, 0), features(61, 1)
    found = find(bank, queries, 20, list(range(-(-433 // chunk))), 1, chunk)
    a, b = (torch.nn.functional.normalize(torch.from_numpy(part), dim=1) for part in (queries, bank))
    values, rows = (a @ b.T).topk(20, dim=1)
    torch.testing.assert_close(similarities_of(found.keys), values)
    assert (places_of(found.keys) == rows).float().mean() > 0.99  # but for similarities that rounding makes equal


def test_neither_the_order_of_chunks_nor_the_number_of_workers_changes_a_bit() -> None:
    bank, queries = features(433, 0), features(61, 1)
    bank[100:300] = bank[:200]  # many are equally near
    orders = [list(range(9)), list(range(9))[::-1], [4, 8, 0, 1, 7, 2, 3, 6, 5]]
    first, *others = [find(bank, queries, 20, order, workers).keys for order in orders for workers in (1, 3)]
    assert all(torch.equal(first, other) for other in others)


def test_of_features_that_are_all_the_same_the_first_images_are_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    same = np.ones((120, 4), np.float32)
    for order in ([0, 1, 2], [2, 1, 0]):
        found = find(same, same[:5], 10, order, 1)
        assert places_of(found.keys).tolist() == [list(range(10))] * 5


def test_a_worker_tells_what_may_be_near_and_little_else() -> None:
    bank, queries = features(5000, 0), features(40, 1)
    prepared = _Prepared(OnCpu(), make_queries({"m": queries}, np.arange(40) + 10**6, 10))  # type: ignore[arg-type]
    told = 0
    for first in range(0, 5000, 100):
        places = np.arange(first, first + 100)
        told += len(_find(prepared, "m", torch.from_numpy(bank[places]), places, places).keys)
    assert told < 40 * 10 * 6  # 10 (1 + 1/2 + ... + 1/50) of each query, and not 10 of each chunk


def test_an_image_is_not_its_own_neighbour() -> None:
    queries = features(30, 1)
    ids = np.arange(30)
    ids[7] = 3  # the same image twice
    prepared = _Prepared(OnCpu(), make_queries({"m": queries}, ids, 29))  # type: ignore[arg-type]
    found = Nearest(30, 29)
    found.add(_find(prepared, "m", torch.from_numpy(queries), np.arange(30), ids))
    places = places_of(found.keys).tolist()
    assert not {3, 7} & {*places[3], *places[7]}
    assert places[3][-1] == -1 and -1 not in places[4]
    assert all(i not in row for i, row in enumerate(places))


def test_a_chunk_of_which_nothing_decodes_holds_nothing() -> None:
    found = Nearest(3, 2)
    found.add(Found(counts=np.zeros(3, np.int32), keys=np.zeros(0, np.int64)))
    assert (found.keys == NO_KEY).all()


@pytest.mark.parametrize("k", [1, 5, 20])
def test_votes_are_those_of_scikit_learn(k: int) -> None:
    bank, queries = features(300, 0), features(80, 1)
    labels = np.random.default_rng(2).integers(0, 7, 300)
    truth = np.random.default_rng(3).integers(0, 7, 80)
    found = find(bank, queries, 20, list(range(6)), 2)
    peer = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp(-distance / 0.1))
    peer.fit(bank, labels)
    near = torch.from_numpy(labels)[places_of(found.keys)]
    ours = votes(similarities_of(found.keys)[:, :k], near[:, :k], 7, 0.1).argmax(dim=1).numpy()
    assert np.array_equal(ours, peer.predict(queries))
    measured = accuracies(
        similarities_of(found.keys), near, torch.from_numpy(truth), num_classes=7, ks=(k,), temperature=0.1
    )
    share = peer.predict_proba(queries)
    first_five = [
        t in row[:5] and p[t] > 0 for t, row, p in zip(truth, share.argsort(axis=1)[:, ::-1], share, strict=True)
    ]
    assert measured[k] == pytest.approx((100 * peer.score(queries, truth), 100 * np.mean(first_five)))


def test_of_five_classes_or_fewer_there_is_no_top_5() -> None:
    similarities, labels = torch.tensor([[0.9, 0.5]]), torch.tensor([[1, 0]])
    found = accuracies(similarities, labels, torch.tensor([1]), num_classes=5, ks=(1, 2), temperature=0.1)
    assert found == {1: (100.0, None), 2: (100.0, None)}


def test_a_chunk_that_is_done_again_after_its_worker_was_lost_changes_nothing() -> None:
    bank, queries = features(200, 0), features(30, 1)
    shared = make_queries({"m": queries}, np.arange(30) + 10**6, 10)
    lost, other = (_Prepared(OnCpu(), shared) for _ in range(2))  # type: ignore[arg-type]
    found = Nearest(30, 10)
    for number in (3, 1, 0, 2):  # what is told of the last is lost with the worker
        places = np.arange(50 * number, 50 * (number + 1))
        part = torch.from_numpy(bank[places])
        told = _find(lost, "m", part, places, places)
        found.add(_find(other, "m", part, places, places) if number == 2 else told)
    assert torch.equal(found.keys, find(bank, queries, 10, [0, 1, 2, 3], 1).keys)


def test_what_is_first_among_equals_is_among_the_first_five() -> None:
    labels = torch.arange(8)[None].repeat(8, 1)
    found = accuracies(
        torch.zeros(8, 8), labels, torch.arange(8), num_classes=8, ks=[8], temperature=0.1
    )  # each class has one vote
    assert found[8][0] == 100 / 8 and 100 * 5 / 8 <= found[8][1] <= 100 * 6 / 8  # type: ignore[operator]
    lowest = accuracies(torch.zeros(1, 8), labels[:1], torch.zeros(1).long(), num_classes=8, ks=[8], temperature=0.1)
    assert lowest[8] == (100, 100)
