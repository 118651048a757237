from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from moco_ray.core.out_of_memory import ran_out_of_memory
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
    assert limited.micro_batches.groups == groups
    assert_states_equal(state_of(limited), state_of(whole), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("encoder", ["query_encoder", "key_encoder"])
@pytest.mark.parametrize("call", [1, 3, 4])
def test_what_earlier_micro_batches_left_behind_is_forgotten(encoder: str, call: int) -> None:
    interrupted, whole = tiny_learner(FailsOnCalls, micro_batch_groups=2), tiny_learner()
    interrupted.method.get_submodule(encoder).backbone.calls.add(call)
    assert_curves_equal(train(interrupted, 2), train(whole, 2))
    assert interrupted.micro_batches.groups == 1
    assert_states_equal(state_of(interrupted), state_of(whole), rtol=1e-11, atol=1e-13)


def test_logits_that_do_not_fit_are_halved_too() -> None:
    limited, whole = tiny_learner(), tiny_learner()
    with FitsLogits(num_negatives=70, limit=20):
        curve = train(limited, 2)
    assert limited.micro_batches.groups == 4
    assert_curves_equal(curve, train(whole, 2))


# As torch 2.11 to 2.13 say it, with what stands around the words.
WORDS = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "FIND was unable to find an engine to execute this computation",
    "GET was unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "NCCL error in: NCCLUtils.cpp:77, unhandled cuda error\nLast error:\nFailed to CUDA calloc async 608 bytes",
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "140737488355328 bytes. Error code 12 (Cannot allocate memory)",
]


@pytest.mark.parametrize("words", WORDS)
def test_libraries_that_say_it_in_their_own_words_are_understood(words: str) -> None:
    interrupted, whole = tiny_learner(partial(FailsOnCalls, error=RuntimeError(words))), tiny_learner()
    interrupted.method.get_submodule("query_encoder").backbone.calls.add(1)
    assert_curves_equal(train(interrupted, 2), train(whole, 2))
    assert interrupted.micro_batches.groups == 4


def test_torch_says_what_it_says_of_its_own_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert ran_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x5 and 6x7)"),
        ValueError("out of memory"),
    ],
)
def test_another_error_is_no_lack_of_memory(error: Exception) -> None:
    learner = tiny_learner(partial(FailsOnCalls, error=error))
    learner.method.get_submodule("query_encoder").backbone.calls.add(1)
    with pytest.raises(type(error), match=re.escape(str(error))):
        train(learner, 1)
    assert learner.micro_batches.groups >= 2**30


def test_one_group_that_does_not_fit_is_an_error_that_says_what_to_do() -> None:
    learner = tiny_learner(partial(FitsForward, GROUP_SIZE - 1))
    with pytest.raises(ValueError, match=r"one BatchNorm group of 4 images of 8 pixels .* use more optim.bn-groups"):
        train(learner, 1)


@pytest.mark.parametrize("backbone", [TinyResNet, partial(FitsForward, 9), partial(FitsBackward, 9)])
def test_trying_memory_leaves_no_trace_but_the_micro_batch(backbone: Callable[[], nn.Module]) -> None:
    tried, untried = tiny_learner(backbone), tiny_learner(backbone)
    tried.try_memory(tiny_batch(0))
    assert tried.micro_batches.groups >= 2**30 or tried.micro_batches.groups == 2
    untried.micro_batches.groups = tried.micro_batches.groups
    assert train(tried, 3) == train(untried, 3)
    assert_states_equal(state_of(tried), state_of(untried), rtol=0, atol=0)
