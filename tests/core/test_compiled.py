"""Encoders that are compiled learn what they learn uncompiled, with few graphs."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from moco_ray.config.method import MethodConfig
from moco_ray.config.methods.end_to_end import EndToEndConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.methods.moco_v3 import MoCoV3Config
from moco_ray.config.model import ModelConfig
from moco_ray.core.step import Learner
from tests.core.ranks import run_on_ranks
from tests.core.tiny import assert_curves_equal, assert_states_equal, method_learner, state_of, train

MODEL = ModelConfig(dim=8, hidden_dim=16)
MOCO = MoCoConfig(queue_size=70, shuffle_bn=True, encoder_momentum=0.9)


def compiled(config: MethodConfig, micro_batch_groups: int | None = None) -> tuple[Learner, CompileCounterWithBackend]:
    """A learner whose encoders are compiled as far as what a device would run, and a count of graphs."""
    torch._dynamo.reset()
    learner = method_learner(config, model=MODEL, micro_batch_groups=micro_batch_groups)
    learner.encode.compiler = counter = CompileCounterWithBackend("aot_eager")
    return learner, counter


@pytest.mark.parametrize(
    ("config", "micro_batch_groups", "most_graphs"),
    [
        (MOCO, None, 2),
        (MOCO, 3, 4),
        (EndToEndConfig(shuffle_bn=True), 3, 4),
        (MoCoV3Config(encoder_momentum=0.9), None, 2),
    ],
)
def test_compiled_encoders_learn_the_same_with_a_graph_for_each_shape(
    config: MethodConfig, micro_batch_groups: int | None, most_graphs: int
) -> None:
    learner, counter = compiled(config, micro_batch_groups)
    plain = method_learner(config, model=MODEL, micro_batch_groups=micro_batch_groups)
    assert_curves_equal(train(learner, 5), train(plain, 5))
    assert 0 < counter.frame_count <= most_graphs
    assert_states_equal(state_of(learner), state_of(plain), rtol=1e-11, atol=1e-13)
    assert learner.method.state_dict().keys() == plain.method.state_dict().keys()


def _curve(config: MethodConfig, is_compiled: bool) -> tuple[list[dict[str, float | int]], dict[str, object]]:
    learner = compiled(config)[0] if is_compiled else method_learner(config, model=MODEL)
    return train(learner, 3), state_of(learner)


@pytest.mark.parametrize("config", [MOCO, MoCoV3Config(encoder_momentum=0.9)])
def test_compiled_encoders_on_two_ranks_learn_what_one_learns(config: MethodConfig) -> None:
    expected, state = _curve(config, False)
    for curve, found in run_on_ranks(2, _curve, config, True):
        assert_curves_equal(curve, expected, rel=1e-11)
        assert_states_equal(found, state, rtol=1e-9, atol=1e-12)
