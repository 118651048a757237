from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from moco_ray.core import collectives
from moco_ray.core.global_batch_norm import GlobalBatchNorm, check_batch_norms, use_global_batch_norm
from tests.core.ranks import run_on_ranks
from tests.core.sync_kernels import use_plain_kernels

SHARES = {1: [12], 2: [7, 5], 3: [6, 2, 4]}  # images of each rank


def images(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(12, *shape, generator=torch.Generator().manual_seed(0)).double() * 3 + 1


def a_norm(channels: int, *, affine: bool) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, affine=affine, momentum=0.3).double()
    if affine:
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 1.5, channels))
            norm.bias.copy_(torch.linspace(-1, 1, channels))
    norm.running_mean += 0.5
    return norm


def norm_here(shape: tuple[int, ...], affine: bool, as_on_cuda: bool) -> dict[str, Any]:
    """This rank's share of two forward passes and one backward pass."""
    if as_on_cuda:
        use_plain_kernels()
        Tensor.is_cuda = True
    norm = GlobalBatchNorm.like(a_norm(shape[0], affine=affine))
    share = SHARES[collectives.world_size()]
    start = sum(share[: collectives.rank()])
    own = images(shape)[start : start + share[collectives.rank()]].requires_grad_()
    norm(own + 1)
    output = norm(own)
    (output**3 * torch.arange(start, start + len(own)).view(-1, *[1] * len(shape))).sum().backward()
    gradients = [p.grad.clone() for p in norm.parameters()]
    return {"output": output.detach(), "input": own.grad, "weights": gradients, "buffers": dict(norm.named_buffers())}


@pytest.mark.parametrize(("num_ranks", "as_on_cuda"), [(1, False), (2, False), (3, False), (2, True), (3, True)])
@pytest.mark.parametrize(("shape", "affine"), [((5,), False), ((5,), True), ((4, 3, 2), True)])
def test_unequal_shares_are_normalised_as_one_batch(
    num_ranks: int, as_on_cuda: bool, shape: tuple[int, ...], affine: bool
) -> None:
    plain = a_norm(shape[0], affine=affine)
    plain._check_input_dim = lambda _: None  # so that it takes (N, C), too
    x = images(shape).requires_grad_()
    plain(x + 1)
    expected = plain(x)
    (expected**3 * torch.arange(12).view(-1, *[1] * len(shape))).sum().backward()
    ranks = run_on_ranks(num_ranks, norm_here, shape, affine, as_on_cuda)
    close = {"rtol": 1e-10, "atol": 1e-11}
    torch.testing.assert_close(torch.cat([rank["output"] for rank in ranks]), expected.detach(), **close)
    torch.testing.assert_close(torch.cat([rank["input"] for rank in ranks]), x.grad, **close)
    for index, parameter in enumerate(plain.parameters()):
        torch.testing.assert_close(sum(rank["weights"][index] for rank in ranks), parameter.grad, **close)
    for rank in ranks:
        for name, buffer in plain.named_buffers():
            torch.testing.assert_close(rank["buffers"][name], buffer, **close)


def bfloat16_here() -> Tensor:
    norm = GlobalBatchNorm.like(nn.BatchNorm1d(5))
    own = images((5,))[6 * collectives.rank() : 6 * collectives.rank() + 6]
    return norm((own + 300).bfloat16())  # steps of 2 between neighbours: a mean in bfloat16 would be off by one


def test_statistics_of_bfloat16_are_taken_in_float32() -> None:
    ours = torch.cat(run_on_ranks(2, bfloat16_here)).detach()
    assert ours.dtype == torch.bfloat16
    expected = nn.BatchNorm1d(5)((images((5,)) + 300).bfloat16().float())
    torch.testing.assert_close(ours.float(), expected.detach(), rtol=0.01, atol=0.01)


def test_evaluation_uses_running_statistics() -> None:
    plain = a_norm(5, affine=True).eval()
    x = images((5, 2, 2))
    assert torch.equal(GlobalBatchNorm.like(copy.deepcopy(plain))(x), plain(x))


def test_every_kind_of_batch_norm_is_replaced_and_keeps_its_parameters() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Sequential(nn.BatchNorm2d(4)), BatchNormAct2d(5))
    weight = net[1][0].weight
    keys = net.state_dict().keys()
    use_global_batch_norm(net)
    check_batch_norms(net, "net")
    assert net[1][0].weight is weight and net.state_dict().keys() == keys
    assert (net[2](torch.randn(4, 5, 2, 2)) >= 0).all()  # the activation is still there
    with pytest.raises(ValueError, match=r"model\.arch x has BatchNorm3d layers"):
        check_batch_norms(nn.Sequential(nn.BatchNorm3d(2)), "model.arch x")
