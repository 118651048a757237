from __future__ import annotations

import math

import pytest
import torch

from moco_ray.evaluate.representation import alignment, rankme, uniformity


def gaussian(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_rankme_of_equal_singular_values_is_their_number() -> None:
    orthonormal = torch.linalg.qr(gaussian(50, 12).double()).Q
    assert rankme(3.7 * orthonormal) == pytest.approx(12, rel=1e-12)


def test_rankme_of_a_large_isotropic_sample_is_close_to_its_dimension() -> None:
    assert 31.9 < rankme(gaussian(20000, 32)) <= 32


def test_rankme_of_collapsed_features_is_one() -> None:
    assert rankme(gaussian(40, 1) @ gaussian(1, 16)) == pytest.approx(1, abs=1e-4)


def test_rankme_of_zeros_is_zero() -> None:
    assert rankme(torch.zeros(4, 3)) == 0


def test_rankme_of_two_singular_values_is_the_closed_form() -> None:
    features = torch.zeros(5, 4)
    features[0, 0], features[1, 1] = 3.0, 1.0
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert rankme(features) == pytest.approx(math.exp(entropy), rel=1e-12)


def test_alignment_of_identical_views_is_zero_and_of_opposite_views_four() -> None:
    x = gaussian(10, 5)
    assert alignment(x, 2 * x) == pytest.approx(0, abs=1e-12)
    assert alignment(x, -x) == pytest.approx(4)


def test_alignment_of_orthogonal_views_is_two() -> None:
    assert alignment(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.2]])) == pytest.approx(2)


def test_uniformity_of_collapsed_embeddings_is_zero() -> None:
    assert uniformity(torch.ones(7, 3)) == pytest.approx(0, abs=1e-12)


def test_uniformity_of_an_orthonormal_set_is_minus_four() -> None:
    assert uniformity(5 * torch.eye(9)) == pytest.approx(-4)  # every pair at squared distance 2


def test_uniformity_averages_over_pairs_not_over_rows() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])  # squared distances 0, 4, 4
    assert uniformity(x) == pytest.approx(math.log((1 + 2 * math.exp(-8)) / 3))


def test_uniformity_needs_two_rows() -> None:
    with pytest.raises(ValueError, match=r"got 1 image\(s\)"):
        uniformity(torch.ones(1, 3))
