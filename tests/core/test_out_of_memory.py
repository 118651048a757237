from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from torch import nn

from tests.core.limits import FailsOnCalls, FitsBackward, FitsForward, FitsLogits
from tests.core.tiny import (
    GROUP_SIZE,
    TinyResNet,
    assert_curves_equal,
    assert_states_equal,
    state_of,
    tiny_batch,
    tiny_learner,
    train,
)


@pytest.mark.parametrize(
    ("backbone", "unlimited", "groups"),
    [
        (partial(FitsForward, 9), TinyResNet, 2),  # 8 groups of 4 do not fit, nor do 4, but 2 do
        (partial(FitsForward, GROUP_SIZE), TinyResNet, 1),
        (partial(FitsBackward, 9), partial(FitsBackward, 1000), 2),
    ],
)
def test_micro_batches_are_halved_until_they_fit_and_the_curve_stays(
    backbone: Callable[[], nn.Module], unlimited: Callable[[], nn.Module], groups: int
) -> None:
    limited, whole = tiny_learner(backbone), tiny_learner(unlimited)
    assert_curves_equal(train(limited, 4), train(whole, 4))
    assert limited.micro_batch_groups == groups
    assert_states_equal(state_of(limited), state_of(whole), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("encoder", ["query_encoder", "key_encoder"])
@pytest.mark.parametrize("call", [1, 3, 4])
def test_what_earlier_micro_batches_left_behind_is_forgotten(encoder: str, call: int) -> None:
    interrupted, whole = tiny_learner(FailsOnCalls, micro_batch_groups=2), tiny_learner()
    interrupted.method.get_submodule(encoder).backbone.calls.add(call)
    assert_curves_equal(train(interrupted, 2), train(whole, 2))
    assert interrupted.micro_batch_groups == 1
    assert_states_equal(state_of(interrupted), state_of(whole), rtol=1e-11, atol=1e-13)


def test_logits_that_do_not_fit_are_halved_too() -> None:
    limited, whole = tiny_learner(), tiny_learner()
    with FitsLogits(num_classes=71, limit=20):
        curve = train(limited, 2)
    assert limited.micro_batch_groups == 4
    assert_curves_equal(curve, train(whole, 2))


def test_one_group_that_does_not_fit_is_an_error_that_says_what_to_do() -> None:
    learner = tiny_learner(partial(FitsForward, GROUP_SIZE - 1))
    with pytest.raises(ValueError, match=r"one BatchNorm group of 4 images of 8 pixels .* use more optim.bn-groups"):
        train(learner, 1)


@pytest.mark.parametrize("backbone", [TinyResNet, partial(FitsForward, 9), partial(FitsBackward, 9)])
def test_trying_memory_leaves_no_trace_but_the_micro_batch(backbone: Callable[[], nn.Module]) -> None:
    tried, untried = tiny_learner(backbone), tiny_learner(backbone)
    tried.try_memory(tiny_batch(0))
    assert tried.micro_batch_groups >= 2**30 or tried.micro_batch_groups == 2
    untried.micro_batch_groups = tried.micro_batch_groups
    assert train(tried, 3) == train(untried, 3)
    assert_states_equal(state_of(tried), state_of(untried), rtol=0, atol=0)
