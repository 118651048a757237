from __future__ import annotations

import copy
from itertools import pairwise
from typing import Literal

import pytest
import timm.optim.lars
import torch
from torch import nn

from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.core.classifier import with_head
from moco_ray.core.encoders import Encoder, build_backbone
from moco_ray.core.optim import build_optimizer
from tests.core.tiny import tiny_encoder
from tests.oracles.lars import LarsOracle


def test_defaults_are_those_of_v2() -> None:
    config = OptimConfig()
    assert (config.global_batch_size, config.bn_groups, config.group_size, config.epochs) == (256, 8, 32, 200)
    assert (config.effective_lr, config.momentum, config.weight_decay) == (0.03, 0.9, 1e-4)
    assert (config.schedule, config.schedule_per, config.warmup_epochs) == ("cosine", "epoch", 0.0)


@pytest.mark.parametrize(("batch_size", "lr"), [(256, 0.03), (512, 0.06), (64, 0.0075)])
def test_the_rate_is_linear_in_the_global_batch(batch_size: int, lr: float) -> None:
    assert OptimConfig(global_batch_size=batch_size).effective_lr == pytest.approx(lr)


def test_steps_cover_every_epoch_and_the_last_one_may_reach_over() -> None:
    assert OptimConfig(epochs=2, global_batch_size=256).num_steps(1000) == 8  # 2000 / 256 = 7.8
    assert OptimConfig(epochs=1, global_batch_size=250).num_steps(1000) == 4
    assert OptimConfig(epochs=200).num_steps(1281167) == 1000912


def test_the_rate_moves_at_the_first_step_that_starts_in_an_epoch() -> None:
    config = OptimConfig(epochs=4, schedule="milestones", milestones=(1, 3))
    rates = [config.lr_at(position, 1000) for position in (0, 999, 1000, 2999, 3000, 3999)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])


def test_a_cosine_per_epoch_is_flat_within_and_one_per_step_is_not() -> None:
    per_epoch, per_step = OptimConfig(epochs=4), OptimConfig(epochs=4, schedule_per="step")
    assert [per_epoch.lr_at(p, 100) for p in (0, 99, 200, 299)] == pytest.approx([0.03, 0.03, 0.015, 0.015])
    assert [per_step.lr_at(p, 100) for p in (0, 200, 400)] == pytest.approx([0.03, 0.015, 0.0], abs=1e-12)
    assert per_step.lr_at(99, 100) < 0.03


@pytest.mark.parametrize("schedule_per", ["epoch", "step"])
def test_a_warmup_rises_at_every_step(schedule_per: str) -> None:
    config = OptimConfig(epochs=10, schedule="constant", schedule_per=schedule_per, warmup_epochs=1.5)
    rates = [config.lr_at(position, 100) for position in (0, 75, 120, 150, 151, 300)]
    assert rates == pytest.approx([0.0, 0.015, 0.024, 0.03, 0.03, 0.03])


def test_weight_decay_and_momentum_are_on_every_parameter() -> None:
    encoder = tiny_encoder()
    optimizer = build_optimizer([encoder], OptimConfig(lr=1.0, global_batch_size=256, weight_decay=0.1))
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in encoder.parameters()]
    before = [p.detach().clone().fill_(2.0) for p in encoder.parameters()]
    for p in encoder.parameters():
        p.data.fill_(2.0)
        p.grad = torch.zeros_like(p)
    for expected in (1.8, 1.44):  # v = .1 * 2, then v = .9 * .2 + .1 * 1.8
        optimizer.step()
        for p, start in zip(encoder.parameters(), before, strict=True):
            torch.testing.assert_close(p.detach(), torch.full_like(start, expected))


def test_lars_equals_its_transcription_with_zero_gradients_and_zero_weights_too() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3), nn.Linear(3, 2)).double()
    nn.init.zeros_(net[2].weight)
    config = OptimConfig(optimizer="lars", global_batch_size=512, lr=0.3, momentum=0.9, weight_decay=0.05)
    optimizer = build_optimizer([net], config)
    params = dict(net.named_parameters())
    oracle = LarsOracle(params, lr=0.6, momentum=0.9, weight_decay=0.05)
    for step in range(6):
        gradients = {name: torch.randn_like(p) for name, p in params.items()}
        gradients["0.weight"] *= step % 2  # zero at the first step: it only decays
        if step < 2:
            gradients["2.weight"].zero_()  # neither weight nor gradient
        for name, p in params.items():
            p.grad = gradients[name].clone()
        optimizer.step()
        oracle.step(gradients)
        for name, p in params.items():
            torch.testing.assert_close(p.detach(), oracle.params[name], rtol=1e-13, atol=1e-15)
            assert torch.equal(p.grad, gradients[name]), "a gradient was changed"


def test_lars_divides_by_the_norm_of_the_decayed_gradient() -> None:
    """Not by the sum of both norms: a gradient against the weights makes the difference largest."""
    net = nn.Linear(4, 3, bias=False).double()
    before = net.weight.detach().clone()
    optimizer = build_optimizer([net], OptimConfig(optimizer="lars", lr=1.0, weight_decay=0.5))
    net.weight.grad = -0.25 * before
    optimizer.step()
    torch.testing.assert_close(net.weight.detach(), before * (1 - 0.001))


def test_lars_scales_matrices_without_weight_decay_too() -> None:
    net = nn.Linear(4, 3, bias=False).double()
    before = net.weight.detach().clone()
    optimizer = build_optimizer([net], OptimConfig(optimizer="lars", lr=1.0, weight_decay=0.0))
    net.weight.grad = torch.ones_like(net.weight)
    optimizer.step()
    moved = (before - net.weight.detach()).norm() / before.norm()
    assert moved.item() == pytest.approx(0.001, rel=1e-12)


def test_lars_leaves_what_has_no_gradient() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = copy.deepcopy(net.state_dict())
    net[0].weight.grad = torch.ones(2, 2)
    build_optimizer([net], OptimConfig(optimizer="lars", lr=1.0)).step()
    changed = [name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["0.weight"]


def test_lars_goes_on_from_the_state_of_timms() -> None:
    """Runs of earlier versions were trained with timm's optimizer: groups and momentum are taken over."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    params = list(net.parameters())
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": 0.05, "always_adapt": True},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0, "always_adapt": False},
    ]
    old = timm.optim.lars.Lars(groups, lr=0.5, momentum=0.9)
    for p in params:
        p.grad = torch.randn_like(p)
    old.step()
    config = OptimConfig(optimizer="lars", global_batch_size=256, lr=0.5, momentum=0.9, weight_decay=0.05)
    new = build_optimizer([net], config)
    new.load_state_dict(old.state_dict())
    oracle = LarsOracle(dict(net.named_parameters()), lr=0.5, momentum=0.9, weight_decay=0.05)
    oracle.velocity = {name: old.state[p]["momentum_buffer"].clone() for name, p in net.named_parameters()}
    oracle.step({name: p.grad.clone() for name, p in net.named_parameters()})
    new.step()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), oracle.params[name], rtol=1e-13, atol=1e-15)


def test_adamw_decays_all_that_is_trained() -> None:
    encoder = tiny_encoder()
    encoder.backbone.conv1.weight.requires_grad_(False)
    optimizer = build_optimizer([encoder], OptimConfig(optimizer="adamw", lr=1e-3, weight_decay=0.1))
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (1e-3, 0.1, (0.9, 0.999))
    assert {id(p) for p in group["params"]} == {id(p) for p in encoder.parameters() if p.requires_grad}


def test_progress_is_the_share_of_the_run() -> None:
    config = OptimConfig(epochs=4)
    assert [config.progress_at(position, 100) for position in (0, 100, 400, 420)] == [0.0, 0.25, 1.0, 1.0]


def _torchs(encoder: nn.Module, name: str) -> torch.optim.Optimizer:
    """The same optimizer as torch makes it, or timm, without any state before the first step."""
    if name == "adamw":
        return torch.optim.AdamW(encoder.parameters(), lr=0.03, weight_decay=1e-4)
    if name == "sgd":
        return torch.optim.SGD(encoder.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
    matrices, vectors = ([p for p in encoder.parameters() if (p.ndim > 1) == is_matrix] for is_matrix in (True, False))
    groups = [
        {"params": matrices, "weight_decay": 1e-4, "always_adapt": True},
        {"params": vectors, "weight_decay": 0.0, "always_adapt": False},
    ]
    return timm.optim.lars.Lars(groups, lr=0.03, momentum=0.9)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_state_that_is_there_from_the_beginning_changes_no_step(optimizer: Literal["sgd", "adamw", "lars"]) -> None:
    runs = []
    for makes in (True, False):
        torch.manual_seed(0)
        encoder = tiny_encoder().double()
        built = build_optimizer([encoder], OptimConfig(optimizer=optimizer)) if makes else _torchs(encoder, optimizer)
        assert bool(built.state) == makes
        for _ in range(4):
            for parameter in encoder.parameters():
                parameter.grad = torch.randn(parameter.shape, dtype=parameter.dtype)
            built.step()
        runs.append((encoder.state_dict(), built.state_dict()["state"]))
    rtol = 1e-5 if optimizer == "lars" else 1e-12  # timm's scales pass through float32
    torch.testing.assert_close(runs[1], runs[0], rtol=rtol, atol=1e-8 if optimizer == "lars" else 1e-14)


def test_adamw_goes_on_from_a_checkpoint_of_a_gpu() -> None:
    """There steps are counted on the device, moments lie channels-last, and the step is fused."""
    torch.manual_seed(0)
    nets = [nn.Conv2d(3, 4, 3).double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    config = OptimConfig(optimizer="adamw", lr=1e-2)
    first, second = (build_optimizer([net], config) for net in nets)
    for turn in range(3):
        for net, optimizer in zip(nets, (first, second), strict=True):
            for p in net.parameters():
                p.grad = p.detach() * (turn + 1)
            optimizer.step()
        saved = copy.deepcopy(first.state_dict())
        saved["param_groups"][0].update(fused=True, foreach=False)
        for name in ("exp_avg", "exp_avg_sq"):
            saved["state"][0][name] = saved["state"][0][name].contiguous(memory_format=torch.channels_last)
        first.load_state_dict(saved)
        assert first.param_groups[0]["foreach"] and not first.param_groups[0]["fused"]
        assert all(s["exp_avg"].stride() == p.stride() for p, s in first.state.items())
    torch.testing.assert_close(nets[0].state_dict(), nets[1].state_dict(), rtol=0, atol=0)


def test_sgd_goes_on_from_a_checkpoint_of_a_gpu_and_of_another_way_to_run() -> None:
    """There momentum lies channels-last in memory; a parameter may have none; and flags are of where it ran."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 3)).double()
    gradients = [[torch.randn_like(p) for p in net.parameters()] for _ in range(3)]
    expected = copy.deepcopy(net)
    old = torch.optim.SGD(expected.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4, foreach=True)

    def step(module: nn.Module, optimizer: torch.optim.Optimizer, of_step: list[torch.Tensor]) -> None:
        for p, gradient in zip(module.parameters(), of_step, strict=True):
            p.grad = gradient.clone()
        optimizer.step()

    for p, gradient in list(zip(expected.parameters(), gradients[0], strict=True))[:2]:  # the convolution alone
        p.grad = gradient.clone()
    old.step()
    saved = copy.deepcopy(old.state_dict())
    weights = saved["state"][0]
    weights["momentum_buffer"] = weights["momentum_buffer"].contiguous(memory_format=torch.channels_last)
    net.load_state_dict(expected.state_dict())
    new = build_optimizer([net], OptimConfig(global_batch_size=256))
    new.load_state_dict(saved)
    assert [(group["fused"], group["foreach"]) for group in new.param_groups] == [(False, True)]
    for of_step in gradients[1:]:
        step(expected, old, of_step)
        step(net, new, of_step)
    torch.testing.assert_close(net.state_dict(), expected.state_dict(), rtol=1e-13, atol=1e-15)
    assert new.state_dict()["state"].keys() == old.state_dict()["state"].keys()


def _vit(layer_decay: float) -> tuple[Encoder, torch.optim.Optimizer]:
    backbone = build_backbone(ModelConfig(arch="vit_mini", patch_px=8, train_patches=True), 32)
    network = with_head(backbone, 3, is_frozen=False)
    config = OptimConfig(optimizer="adamw", weight_decay=0.05, layer_decay=layer_decay)
    return network, build_optimizer([network], config)


def test_rates_decay_from_the_head_to_the_first_block() -> None:
    network, optimizer = _vit(0.5)
    scale = {id(p): group.get("lr_scale", 1.0) for group in optimizer.param_groups for p in group["params"]}
    learned = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    assert {id(p) for _, p in learned} == set(scale) and sum(
        len(group["params"]) for group in optimizer.param_groups
    ) == len(learned)
    blocks = sorted({int(name.split(".")[2]) for name, _ in learned if name.startswith("backbone.blocks.")})
    of_block = [
        {scale[id(p)] for name, p in learned if name.startswith(f"backbone.blocks.{block}.")} for block in blocks
    ]
    assert all(len(scales) == 1 for scales in of_block) and len(blocks) > 2
    rates = [scales.pop() for scales in of_block]
    assert [later / former for former, later in pairwise(rates)] == pytest.approx([2.0] * (len(blocks) - 1))
    patches = {scale[id(p)] for name, p in learned if "patch_embed" in name}
    head = {scale[id(p)] for name, p in learned if name.startswith("projector.")}
    assert max(patches) < rates[0] < rates[-1] < 1 and head == {1.0}
    flat = {group["weight_decay"] for group in optimizer.param_groups for p in group["params"] if p.ndim == 1}
    assert flat == {0.0}  # as in BEiT's


def test_without_layer_decay_there_is_one_group() -> None:
    network, optimizer = _vit(1.0)
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in network.parameters() if p.requires_grad]
    assert "lr_scale" not in group


def test_layer_decay_is_refused_where_no_blocks_are_known() -> None:
    network = with_head(build_backbone(ModelConfig(arch="tiny_resnet"), 32), 3, is_frozen=False)
    with pytest.raises(ValueError, match=r"optim.layer-decay 0.5 is for Transformers .* use 1"):
        build_optimizer([network], OptimConfig(layer_decay=0.5))
