"""Each method against an independent transcription of its paper, in float64, over five steps."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco_ray.config.methods.end_to_end import EndToEndConfig
from moco_ray.config.methods.memory_bank import MemoryBankConfig
from moco_ray.config.methods.moco_v3 import MoCoV3Config
from moco_ray.config.methods.simclr import SimCLRConfig
from moco_ray.core.batch import key_permutation
from moco_ray.core.step import Learner
from tests.core.methods.methods import V3_HEADS
from tests.core.tiny import (
    BATCH_SIZE,
    MEAN,
    NUM_GROUPS,
    SEED,
    STD,
    TinyResNet,
    TinyViT,
    method_learner,
    tiny_batch,
    views,
)
from tests.oracles.end_to_end import EndToEndOracle
from tests.oracles.functional import Net
from tests.oracles.memory_bank import MemoryBankOracle
from tests.oracles.moco import to_tensor
from tests.oracles.moco_v3 import MoCoV3Oracle
from tests.oracles.simclr import SimCLROracle

NUM_STEPS = 6
LR = 0.2


def plain_copy(module: nn.Module) -> nn.Module:
    """The same net with torch's own BatchNorm."""
    module = copy.deepcopy(module)
    for name, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            is_flat = "projector" in name or "." not in name
            plain = (nn.BatchNorm1d if is_flat else nn.BatchNorm2d)(child.num_features, affine=child.affine).double()
            plain.load_state_dict(child.state_dict())
            module.set_submodule(name, plain)
    return module


def tensors(step: int) -> tuple[Tensor, Tensor]:
    query, key = views(step)
    return to_tensor(query, MEAN, STD), to_tensor(key, MEAN, STD)


def assert_equal(ours: Mapping[str, Tensor], oracle: Mapping[str, Tensor]) -> None:
    assert ours.keys() == oracle.keys()
    for name, tensor in ours.items():
        error = (tensor.detach() - oracle[name]).norm() / oracle[name].norm().clamp(min=1e-12)
        assert error < 1e-11, f"{name}: relative error {error:.1e}"


def assert_nets_equal(ours: nn.Module, oracle: Net) -> None:
    assert_equal(dict(ours.named_parameters()), oracle.params)


def running(module: nn.Module) -> dict[str, Tensor]:
    return {name: b for name, b in module.named_buffers() if name.endswith(("running_mean", "running_var"))}


def train(learner: Learner, step: int, progress: float = 0.0) -> float:
    batch = tiny_batch(step, shuffle_bn=learner.method.config.shuffles_keys)
    return float(learner.step(batch, lr=LR, progress=progress).values()["train/loss"])


@pytest.mark.parametrize(("backbone", "micro_batch_groups"), [(TinyResNet, None), (TinyViT, None), (TinyViT, 2)])
def test_moco_v3_is_its_algorithm_1(backbone: type[nn.Module], micro_batch_groups: int | None) -> None:
    is_vit = backbone is TinyViT
    config = MoCoV3Config(temperature=0.2 if is_vit else 1.0, encoder_momentum=0.9, predictor_last_bn=is_vit)
    model = replace(V3_HEADS, projector_layers=3 if is_vit else 2)
    learner = method_learner(config, backbone, model=model, micro_batch_groups=micro_batch_groups)
    method = learner.method
    oracle = MoCoV3Oracle(plain_copy(method.query_encoder), plain_copy(method.predictor), tau=config.temperature, m=0.9)
    for step in range(NUM_STEPS):
        loss = train(learner, step, progress=step / NUM_STEPS)
        assert loss == pytest.approx(oracle.step(*tensors(step), LR, step / NUM_STEPS), rel=1e-11)
        assert_nets_equal(method.query_encoder, oracle.base_q)
        assert_nets_equal(method.predictor, oracle.predictor)
        assert_nets_equal(method.key_encoder, oracle.base_k)
    for ours, theirs in (
        (method.query_encoder, oracle.base_q),
        (method.predictor, oracle.predictor),
        (method.key_encoder, oracle.base_k),
    ):
        for name, buffer in running(ours).items():
            torch.testing.assert_close(buffer, theirs.buffers[name], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("backbone", [TinyResNet, TinyViT])
def test_simclr_is_its_algorithm_1(backbone: type[nn.Module]) -> None:
    learner = method_learner(SimCLRConfig(temperature=0.5), backbone)
    oracle = SimCLROracle(plain_copy(learner.method.query_encoder), tau=0.5)
    for step in range(NUM_STEPS):
        assert train(learner, step) == pytest.approx(oracle.step(*tensors(step), LR), rel=1e-11)
        assert_nets_equal(learner.method.query_encoder, oracle.net)


def test_nt_xent_is_lightlys() -> None:
    from lightly.loss import NTXentLoss

    learner = method_learner(SimCLRConfig(temperature=0.3))
    method = learner.method
    batch = tiny_batch(0, shuffle_bn=False)
    outputs = [learner.encode(method.query_encoder, method.query_images(batch)[0]).detach().requires_grad_()]
    ours = method.loss(outputs, None, slice(None), batch, learner.encode).total / BATCH_SIZE
    (gradient,) = torch.autograd.grad(ours, outputs)
    theirs = outputs[0].detach().requires_grad_()
    loss = NTXentLoss(temperature=0.3)(*theirs.chunk(2))
    assert ours.item() == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, theirs)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("micro_batch_groups", [None, 3])
def test_end_to_end_is_the_v1_papers_mechanism(micro_batch_groups: int | None) -> None:
    config = EndToEndConfig(temperature=0.2, shuffle_bn=True)
    learner = method_learner(config, micro_batch_groups=micro_batch_groups)
    method = learner.method
    oracle = EndToEndOracle(plain_copy(method.query_encoder), t=0.2, num_gpus=NUM_GROUPS)
    for step in range(NUM_STEPS):
        permutation = torch.from_numpy(key_permutation(SEED, step, BATCH_SIZE))
        expected = oracle.step(*tensors(step), permutation, LR)
        assert train(learner, step) == pytest.approx(expected, rel=1e-11)
        assert_nets_equal(method.query_encoder, oracle.f_q)
        assert_nets_equal(method.key_encoder, oracle.f_k)
    first, second = (next(encoder.parameters()) for encoder in (method.query_encoder, method.key_encoder))
    assert (first - second).norm() > 1e-3  # two encoders, each with gradients of its own


def test_memory_bank_is_the_v1_papers_mechanism() -> None:
    """Rows 2 and 5 are held out and have no entry; the last image of every batch is its first one again."""
    config = MemoryBankConfig(num_negatives=40, temperature=0.2, bank_momentum=0.5)
    learner = method_learner(config, num_images=60)
    method = learner.method
    rows = [row for row in range(62) if row not in (2, 5)]
    oracle = MemoryBankOracle(plain_copy(method.query_encoder), method.bank, t=0.2, m=0.5, num_gpus=NUM_GROUPS)
    for step in range(NUM_STEPS):
        images = [(step * 25 + i) % 60 for i in range(BATCH_SIZE - 1)]
        images.append(images[0])
        batch = replace(
            tiny_batch(step, shuffle_bn=False),
            rows=np.array([rows[image] for image in images]),
            indices=np.array(images),
        )
        expected = oracle.step(tensors(step)[0], images, method.sample(step).tolist(), LR)
        loss = float(learner.step(batch, lr=LR).values()["train/loss"])
        assert loss == pytest.approx(expected, rel=1e-11)
        assert_nets_equal(method.query_encoder, oracle.f)
        assert_equal({"bank": method.bank}, {"bank": torch.stack(oracle.bank)})


def test_samples_of_the_memory_bank_are_uniform_and_new_at_every_step() -> None:
    method = method_learner(MemoryBankConfig(num_negatives=1000), num_images=10).method
    counts = torch.stack([torch.bincount(method.sample(step), minlength=10) for step in range(20)]).sum(dim=0)
    assert counts.sum() == 20_000 and (counts - 2000).abs().max() < 200
    assert not torch.equal(method.sample(0), method.sample(1))
    assert torch.equal(method.sample(3), method.sample(3))
