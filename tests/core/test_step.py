from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.core.batch import key_permutation, resident_batch
from moco_ray.core.encoders import Encoder
from moco_ray.core.group_batch_norm import merged_running_statistics, use_group_batch_norm
from moco_ray.core.methods.moco import MoCo
from moco_ray.core.optim import build_optimizer
from moco_ray.core.step import Learner
from tests.core.tiny import (
    BATCH_SIZE,
    MEAN,
    STD,
    PlainNet,
    assert_curves_equal,
    assert_states_equal,
    state_of,
    tiny_batch,
    tiny_learner,
    train,
    views,
)
from tests.oracles.moco import MoCoOracle, learning_rate, to_tensor


def small_resnet(projector: str) -> torchvision.models.ResNet:
    """A torchvision ResNet whose fc is the projector, as in the reference."""
    torch.manual_seed(0)
    net = torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1])
    net.fc = nn.Linear(512, 16)
    if projector == "mlp":
        net.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), net.fc)
    return net.double()


def oracle_name(name: str) -> str:
    return name.removeprefix("backbone.").replace("projector", "fc")


def assert_equal_to(oracle: dict[str, Tensor], ours: dict[str, Tensor]) -> None:
    assert {oracle_name(name) for name in ours} == set(oracle)
    for name, tensor in ours.items():
        expected = oracle[oracle_name(name)]
        error = (tensor - expected).norm() / expected.norm().clamp(min=1e-12)  # biases start at zero
        assert error < 1e-12, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("version", ["v1", "v2", "symmetric"])
def test_six_steps_equal_the_transcribed_pseudocode(version: str) -> None:
    projector, temperature = {"v1": ("linear", 0.07), "v2": ("mlp", 0.2), "symmetric": ("linear", 0.1)}[version]
    symmetric = version == "symmetric"
    batch_size, num_groups, queue_size, num_rows, seed = 16, 2, 50, 32, 3  # 50 is no multiple of 16
    optim = OptimConfig(
        global_batch_size=batch_size,
        bn_groups=num_groups,
        epochs=4,
        lr=0.5,
        schedule="milestones" if version == "v1" else "cosine",
        milestones=(1, 2),
    )
    net = small_resnet(projector)
    backbone = copy.deepcopy(net)
    backbone.fc = nn.Identity()
    config = MoCoConfig(queue_size=queue_size, temperature=temperature, encoder_momentum=0.9, symmetric=symmetric)
    moco = MoCo(Encoder(backbone, copy.deepcopy(net.fc), 16), config, torch.Generator().manual_seed(1)).double()
    use_group_batch_norm(moco, optim.group_size)
    learner = Learner(moco, build_optimizer(moco.trained(), optim), mean=MEAN, std=STD)
    oracle = MoCoOracle(
        net,
        moco.queue.keys.T,
        num_gpus=num_groups,
        temperature=temperature,
        m=0.9,
        sgd_momentum=0.9,
        weight_decay=1e-4,
    )
    for step in range(6):
        query, key = views(step, batch_size=batch_size, size_px=32)
        rows = np.arange(batch_size)
        batch = resident_batch(query, key, rows, step=step, seed=seed, num_groups=num_groups, shuffle_bn=True)
        loss = learner.step(batch, lr=optim.lr_at(step * batch_size, num_rows)).values()["train/loss"]

        epoch = step * batch_size // num_rows
        lr = learning_rate(0.5 * 16 / 256, epoch, 4, cosine=version != "v1", milestones=(1, 2))
        permutation = torch.from_numpy(key_permutation(seed, step, batch_size))
        expected = oracle.step(
            to_tensor(query, MEAN, STD), to_tensor(key, MEAN, STD), permutation, lr, symmetric=symmetric
        )

        assert loss == pytest.approx(expected, rel=1e-12)
        assert_equal_to(oracle.gradients, {n: p.grad for n, p in moco.query_encoder.named_parameters()})
        assert_equal_to(oracle.f_q, dict(moco.query_encoder.named_parameters()))
        assert_equal_to(oracle.f_k, dict(moco.key_encoder.named_parameters()))
        assert_equal_to({"queue": oracle.queue}, {"queue": moco.queue.keys.T})
        assert int(moco.queue.pointer) == oracle.queue_ptr
    assert int(moco.queue.num_enqueued) == 6 * batch_size * (1 + symmetric)
    if symmetric:
        return  # the oracle's running statistics move twice a step
    for encoder, buffers in ((moco.query_encoder, oracle.buffers_q), (moco.key_encoder, oracle.buffers_k)):
        assert_equal_to(oracle.mean_running_statistics(buffers), merged_running_statistics(encoder))


def test_keys_are_enqueued_after_the_logits() -> None:
    learner = tiny_learner()
    train(learner, 1)
    moco, batch = learner.method, tiny_batch(1)
    before = moco.queue.keys.clone()
    q = nn.functional.normalize(learner.encode(copy.deepcopy(moco.query_encoder), batch.query), dim=1)
    loss = learner.step(batch, lr=0.0).values()["train/loss"]
    k = moco.queue.keys[BATCH_SIZE : 2 * BATCH_SIZE]

    def loss_against(queue: Tensor) -> float:
        logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ queue.T], dim=1) / 0.2
        return nn.functional.cross_entropy(logits, torch.zeros(BATCH_SIZE, dtype=torch.int64)).item()

    assert loss == pytest.approx(loss_against(before), rel=1e-12)
    assert loss < loss_against(moco.queue.keys) - 0.01  # there each positive would be a negative too


def test_momentum_update_precedes_the_keys() -> None:
    learner = tiny_learner()
    train(learner, 2)  # the encoders differ by now
    moco, batch = learner.method, tiny_batch(2)
    key_encoder = copy.deepcopy(moco.key_encoder)
    for key, query in zip(key_encoder.parameters(), moco.query_encoder.parameters(), strict=True):
        key.data.mul_(0.9).add_(query.detach(), alpha=0.1)
    expected = torch.empty(BATCH_SIZE, 8, dtype=torch.float64)
    expected[torch.from_numpy(batch.shuffle)] = nn.functional.normalize(
        learner.encode(key_encoder, batch.key).detach(), dim=1
    )
    learner.step(batch, lr=0.1)
    slots = torch.arange(2 * BATCH_SIZE, 3 * BATCH_SIZE) % 70
    torch.testing.assert_close(moco.queue.keys[slots], expected, rtol=1e-12, atol=1e-12)


def test_shuffle_off_changes_the_loss() -> None:
    on, off = train(tiny_learner(), 1)[0], train(tiny_learner(shuffle_bn=False), 1)[0]
    assert abs(on["train/loss"] - off["train/loss"]) > 1e-4
    assert on["rows_digest"] == off["rows_digest"]


def test_without_batch_norm_the_shuffle_changes_nothing() -> None:
    on, off = tiny_learner(PlainNet), tiny_learner(PlainNet, shuffle_bn=False)
    curve_on, curve_off = train(on, 4), train(off, 4)
    assert [v["train/loss"] for v in curve_on] == pytest.approx([v["train/loss"] for v in curve_off], rel=1e-13)
    torch.testing.assert_close(on.method.queue.keys, off.method.queue.keys, rtol=1e-12, atol=1e-12)


def test_key_encoder_learns_from_momentum_only() -> None:
    learner = tiny_learner()
    learner.step(tiny_batch(0), lr=0.1)
    assert all(p.grad is None and not p.requires_grad for p in learner.method.key_encoder.parameters())
    trained = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in learner.method.query_encoder.parameters()}


def test_each_encoder_keeps_the_statistics_of_its_own_forward_passes() -> None:
    learner = tiny_learner()
    learner.step(tiny_batch(0), lr=0.1)
    for encoder in (learner.method.query_encoder, learner.method.key_encoder):
        assert int(encoder.backbone.bn1.num_batches_tracked) == 1
    query, key = learner.method.query_encoder.backbone.bn1, learner.method.key_encoder.backbone.bn1
    assert (query.running_mean - key.running_mean).abs().max() > 1e-5


def test_training_learns_to_find_keys_in_a_full_queue() -> None:
    curve = train(tiny_learner(queue_size=64, encoder_momentum=0.99), 120)
    early, late = curve[10:30], curve[100:]

    def mean(name: str, values: list[dict[str, float | int]]) -> float:
        return float(np.mean([v[name] for v in values]))

    assert mean("train/loss", late) < mean("train/loss", early) - 0.5
    assert 0 < mean("train/contrast_accuracy", early) < mean("train/contrast_accuracy", late) <= 100
    assert all(-1 <= v["train/positive_cosine"] <= 1 for v in curve)


def test_state_dict_holds_the_queue_and_resumes_the_same_curve() -> None:
    straight = tiny_learner()
    train(straight, 3)
    saved = copy.deepcopy((straight.method.state_dict(), straight.optimizer.state_dict()))
    assert {"queue.keys", "queue.pointer", "queue.num_enqueued"} <= saved[0].keys()
    resumed = tiny_learner(queue_size=70)
    resumed.method.load_state_dict(saved[0])
    resumed.optimizer.load_state_dict(saved[1])
    assert train(resumed, 3, first_step=3) == train(straight, 3, first_step=3)
    assert_states_equal(state_of(resumed), state_of(straight), rtol=0, atol=0)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_micro_batches_change_nothing(groups: int) -> None:
    whole, cut = tiny_learner(), tiny_learner(micro_batch_groups=groups)
    assert_curves_equal(train(cut, 6), train(whole, 6))
    assert_states_equal(state_of(cut), state_of(whole), rtol=1e-11, atol=1e-13)
