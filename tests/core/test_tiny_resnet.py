from __future__ import annotations

import pytest
import timm
import torch

from moco_ray.core.encoders import feature_dim
from moco_ray.core.recipe import network_numbers
from moco_ray.core.tiny_resnet import TinyResNet


def test_names_first_weights_and_numbers_are_those_of_timms_test_resnet() -> None:
    torch.manual_seed(3)
    ours, after_ours = TinyResNet(), torch.rand(1)
    torch.manual_seed(3)
    theirs, after_theirs = timm.create_model("test_resnet", num_classes=0), torch.rand(1)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(after_ours, after_theirs)
    assert network_numbers(ours) == network_numbers(theirs) and feature_dim(ours) == feature_dim(theirs) == 96


@pytest.mark.parametrize("px", [32, 33, 40, 96])
def test_function_gradients_and_statistics_are_timms_bit_for_bit(px: int) -> None:
    ours, theirs = TinyResNet(), timm.create_model("test_resnet", num_classes=0)
    for p in ours.parameters():
        torch.nn.init.normal_(p, std=0.1)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(4, 3, px, px).to(memory_format=torch.channels_last)
    a, b = ours(images), theirs(images)
    assert a.shape == (4, 96) and torch.equal(a, b)
    a.square().sum().backward()
    b.square().sum().backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(ours.buffers(), theirs.buffers(), strict=True))
