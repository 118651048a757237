from __future__ import annotations

import pytest
import torch

from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.core.methods.moco import MoCo
from tests.core.tiny import tiny_encoder


def test_defaults_are_those_of_v2() -> None:
    config = MoCoConfig()
    assert (config.queue_size, config.temperature, config.encoder_momentum, config.symmetric) == (
        65536,
        0.2,
        0.999,
        False,
    )


def test_key_encoder_starts_as_a_copy_head_included() -> None:
    moco = MoCo(tiny_encoder(), MoCoConfig(queue_size=10), torch.Generator())
    query, key = moco.query_encoder.state_dict(), moco.key_encoder.state_dict()
    assert query.keys() == key.keys() and any(name.startswith("projector.") for name in key)
    assert all(torch.equal(query[name], key[name]) for name in query)
    assert not {p.data_ptr() for p in moco.query_encoder.parameters()} & {
        p.data_ptr() for p in moco.key_encoder.parameters()
    }
    assert moco.queue.keys.shape == (10, 8)


def test_shuffling_is_for_networks_with_batch_norm() -> None:
    assert resolved(MoCoConfig(), has_batch_norm=True).shuffles_keys
    assert not resolved(MoCoConfig(), has_batch_norm=False).shuffles_keys
    assert not resolved(MoCoConfig(shuffle_bn=False), has_batch_norm=True).shuffles_keys
    with pytest.raises(ValueError, match="the network has no BatchNorm"):
        resolved(MoCoConfig(shuffle_bn=True), has_batch_norm=False)


def test_a_symmetric_step_enqueues_two_batches() -> None:
    with pytest.raises(ValueError, match="smaller than one batch of 512 keys"):
        MoCoConfig(queue_size=511, symmetric=True).check(256)
    MoCoConfig(queue_size=512, symmetric=True).check(256)
    assert resolved(MoCoConfig(queue_size=None, symmetric=True), has_batch_norm=True).queue_size == 512


def resolved(config: MoCoConfig, *, has_batch_norm: bool) -> MoCoConfig:
    return config.resolve(num_images=1000, global_batch_size=256, has_batch_norm=has_batch_norm)
