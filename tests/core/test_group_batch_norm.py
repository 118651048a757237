from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from moco_ray.core.encoders import key_encoder_of
from moco_ray.core.group_batch_norm import (
    GroupBatchNorm,
    commit_running_statistics,
    group_batch_norms,
    has_batch_norm,
    keep_running_share,
    merged_running_statistics,
    use_group_batch_norm,
)
from tests.core.tiny import PlainNet, TinyResNet


def a_batch_norm(channels: int = 5) -> nn.BatchNorm2d:
    """With weights and running statistics that are not those of a fresh one."""
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.2).double()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.copy_(torch.rand(channels, generator=generator).double() + 0.5)
    return norm


def images(num_images: int = 12, channels: int = 5, size_px: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_images, channels, size_px, size_px, generator=generator).double()


def assert_close(actual: Tensor | None, expected: Tensor | None) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("group_size", [2, 4, 12])
def test_each_group_is_normalised_as_by_a_batch_norm_of_its_own(
    group_size: int, memory_format: torch.memory_format
) -> None:
    plain = a_batch_norm()
    group = GroupBatchNorm.like(copy.deepcopy(plain), group_size)
    x = images().contiguous(memory_format=memory_format).requires_grad_()
    y = images().requires_grad_()
    weights = torch.randn_like(y)
    output = group(x)
    expected = torch.cat([copy.deepcopy(plain)(part) for part in y.split(group_size)])
    per_group = [copy.deepcopy(plain) for _ in y.split(group_size)]
    (output * weights).sum().backward()
    (torch.cat([n(part) for n, part in zip(per_group, y.split(group_size), strict=True)]) * weights).sum().backward()
    assert_close(output, expected)
    assert_close(x.grad, y.grad)
    assert_close(group.weight.grad, torch.stack([n.weight.grad for n in per_group]).sum(dim=0))
    assert_close(group.bias.grad, torch.stack([n.bias.grad for n in per_group]).sum(dim=0))
    assert output.is_contiguous(memory_format=memory_format)


def test_one_commit_moves_running_statistics_by_the_mean_over_groups() -> None:
    plain = a_batch_norm()
    group = GroupBatchNorm.like(copy.deepcopy(plain), 4)
    per_group = [copy.deepcopy(plain) for _ in range(3)]
    for norm, part in zip(per_group, images().split(4), strict=True):
        norm(part)
    group(images()[:8])  # in two micro-batches
    group(images()[8:])
    assert_close(group.running_mean, plain.running_mean)  # nothing moves before the commit
    commit_running_statistics([group], num_groups=3, own_groups=3)
    assert_close(group.running_mean, torch.stack([n.running_mean for n in per_group]).mean(dim=0))
    assert_close(group.running_var, torch.stack([n.running_var for n in per_group]).mean(dim=0))
    assert int(group.num_batches_tracked) == int(per_group[0].num_batches_tracked) == 1


def test_two_passes_a_step_count_as_one_update_by_the_mean_of_both() -> None:
    once, twice = (GroupBatchNorm.like(a_batch_norm(), 4) for _ in range(2))
    once(torch.cat([images(), images() + 1]))
    commit_running_statistics([once], num_groups=6, own_groups=6)
    twice(images())
    twice(images() + 1)
    commit_running_statistics([twice], num_groups=3, own_groups=3)
    assert_close(twice.running_mean, once.running_mean)
    assert_close(twice.running_var, once.running_var)


def test_a_norm_that_saw_nothing_stays_as_it_is() -> None:
    norm = GroupBatchNorm.like(a_batch_norm(), 4)
    before = copy.deepcopy(norm.state_dict())
    commit_running_statistics([norm], num_groups=3, own_groups=3)
    assert all(torch.equal(norm.state_dict()[name], value) for name, value in before.items())


def test_shares_of_ranks_add_up_to_the_running_statistics() -> None:
    whole = GroupBatchNorm.like(a_batch_norm(), 4)
    shares = [copy.deepcopy(whole), copy.deepcopy(whole)]
    for buffer in (shares[1].running_mean, shares[1].running_var):
        buffer.zero_()  # what keep_running_share does on ranks other than 0
    for step in range(3):
        x = images() + step
        whole(x)
        shares[step % 2](x[:8])
        shares[1 - step % 2](x[8:])
        for norm, own_groups in ((whole, 3), (shares[step % 2], 2), (shares[1 - step % 2], 1)):
            commit_running_statistics([norm], num_groups=3, own_groups=own_groups)
    assert_close(shares[0].running_mean + shares[1].running_mean, whole.running_mean)
    assert_close(shares[0].running_var + shares[1].running_var, whole.running_var)


def test_discarded_statistics_never_reach_the_running_ones() -> None:
    once, again = (GroupBatchNorm.like(a_batch_norm(), 4) for _ in range(2))
    again(images() * 100)
    again.discard_pending()
    for norm in (once, again):
        norm(images())
        commit_running_statistics([norm], num_groups=3, own_groups=3)
    assert torch.equal(once.running_mean, again.running_mean) and torch.equal(once.running_var, again.running_var)


def test_eval_mode_uses_running_statistics_and_takes_any_number_of_images() -> None:
    plain = a_batch_norm().eval()
    group = GroupBatchNorm.like(copy.deepcopy(plain), 4)
    assert not group.training
    assert_close(group(images(7)), plain(images(7)))


def test_training_refuses_an_incomplete_group() -> None:
    with pytest.raises(AssertionError, match="10 images do not fill groups of 4"):
        GroupBatchNorm.like(a_batch_norm(), 4)(images(10))


def test_state_dict_keys_are_those_of_plain_batch_norm() -> None:
    net = TinyResNet()
    plain = copy.deepcopy(net)
    use_group_batch_norm(net, 4)
    assert list(net.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(net.state_dict())
    assert len(group_batch_norms(net)) == 3 and not group_batch_norms(plain)


def test_parameters_stay_the_same_objects_frozen_or_not() -> None:
    query = TinyResNet()
    key = key_encoder_of(query)
    parameters = [*query.parameters(), *key.parameters()]
    for net in (query, key):
        use_group_batch_norm(net, 4)
    assert [id(p) for p in (*query.parameters(), *key.parameters())] == [id(p) for p in parameters]
    assert all(p.requires_grad for p in query.parameters())
    assert not any(p.requires_grad for p in key.parameters())


def test_using_it_again_changes_the_group_size_only() -> None:
    net = TinyResNet()
    use_group_batch_norm(net, 4)
    norms = group_batch_norms(net)
    use_group_batch_norm(net, 2)
    assert group_batch_norms(net) == norms and [n.group_size for n in norms] == [2, 2, 2]


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "regnetx_002"])
def test_timm_models_compute_what_each_group_alone_would(name: str) -> None:
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=0).double()
    net = copy.deepcopy(plain)
    use_group_batch_norm(net, 3)
    kinds = {type(m) for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert all(issubclass(kind, GroupBatchNorm) for kind in kinds)
    assert list(net.state_dict()) == list(plain.state_dict())
    x = images(6, channels=3, size_px=64)
    with torch.no_grad():
        assert_close(net(x), torch.cat([plain(part) for part in x.split(3)]))
        assert_close(net.eval()(x), timm_reset(plain, net).eval()(x))


def timm_reset(plain: nn.Module, net: nn.Module) -> nn.Module:
    plain.load_state_dict(net.state_dict())
    return plain


def test_merged_statistics_are_keyed_as_in_the_state_dict() -> None:
    net = TinyResNet()
    use_group_batch_norm(net, 4)
    keep_running_share(net)
    net.bn2.running_mean.fill_(3.0)
    merged = merged_running_statistics(net)
    assert set(merged) == {key for key in net.state_dict() if key.endswith(("running_mean", "running_var"))}
    assert all(torch.equal(merged[key], net.state_dict()[key]) for key in merged)
    assert merged["bn2.running_mean"].data_ptr() != net.bn2.running_mean.data_ptr()
    assert set(merged_running_statistics(net.bn1)) == {"running_mean", "running_var"}
    assert merged_running_statistics(PlainNet()) == {}


def test_has_batch_norm_sees_every_kind() -> None:
    grouped = TinyResNet()
    use_group_batch_norm(grouped, 4)
    assert has_batch_norm(TinyResNet()) and has_batch_norm(grouped)
    assert has_batch_norm(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    assert not has_batch_norm(nn.Sequential(PlainNet(), nn.LayerNorm(12), nn.GroupNorm(1, 12)))
