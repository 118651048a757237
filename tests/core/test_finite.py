"""The first value that is not finite is found where it arises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from moco_ray.core.finite import OutputWatch, gradients_not_finite, not_finite, summary, weights_not_finite


class _Root(nn.Module):
    """Square roots: at 0 they are finite, and their gradient is not; below 0 they are not."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


class _Pair(nn.Module):
    """Two branches, of which it divides one by the other; more than a tensor goes in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)

    def forward(self, both: dict[str, Tensor]) -> tuple[list[Tensor], int]:
        return [self.first(both["x"]) / self.second(both["x"])], 3


def _network(*middle: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), *middle, nn.Linear(4, 2))


def test_the_module_is_the_innermost_whose_output_is_first_not_finite() -> None:
    network = _network(nn.Sequential(nn.ReLU(), nn.Sequential(_Root())), nn.Identity())
    network[2][0] = nn.Hardtanh(-1.0, -0.5)
    with OutputWatch(network=network) as watch:
        network(torch.randn(8, 4))
    assert watch.first is not None and (watch.first.name, watch.first.kind) == ("2.1.0", "_Root")
    assert not watch.first.is_input and watch.first.put_out[0]["nan"] == 32 and watch.first.given[0]["nan"] == 0
    assert [passed.name for passed in watch.before] == ["0", "1", "2.0"]
    assert watch.before[0].weights["weight"]["shape"] == [4, 4]
    assert not any(module._forward_hooks for module in network.modules())


def test_what_is_done_between_modules_is_told_as_their_parents_or_as_what_goes_into_the_next() -> None:
    pair = _Pair()
    nn.init.zeros_(pair.second.weight)
    holder = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"pair": pair}))
    with OutputWatch(network=holder) as watch:
        pair({"x": torch.randn(2, 4)})
    assert watch.first is not None and (watch.first.name, watch.first.is_input) == ("1.pair", False)
    with OutputWatch(network=_network()) as watch:
        watch.network(torch.full((3, 4), math.inf))
    assert watch.first is not None and (watch.first.name, watch.first.is_input) == ("0", True)


def test_nothing_is_found_where_all_is_finite_and_an_error_leaves_no_hook() -> None:
    network = _network()
    with OutputWatch(network=network) as watch:
        network(torch.randn(8, 4))
    assert watch.first is None and len(watch.before) == 3
    with pytest.raises(RuntimeError), OutputWatch(network=network):
        network(torch.randn(8, 5))
    assert not any(module._forward_hooks for module in network.modules())


def test_gradients_are_told_from_where_they_begin_and_weights_in_their_order() -> None:
    network = _network(_Root(), nn.Flatten())
    network[1] = nn.Identity()
    nn.init.zeros_(network[0].bias)
    network(torch.zeros(8, 4)).sum().backward()  # the root of 0 has no slope
    assert gradients_not_finite(network)[0] == "0.bias"
    assert "4.weight" not in gradients_not_finite(network)
    assert weights_not_finite(_network()) == []
    broken = _network()
    with torch.no_grad():
        broken[2].weight[0, 0] = math.nan
        broken[0].bias[1] = -math.inf
        broken[1].running_var.fill_(math.inf)  # decides on nothing in training
    assert weights_not_finite(broken) == ["0.bias", "2.weight"]
    assert not_finite({"count": torch.tensor(3), "nan": torch.tensor(math.nan)}) == ["nan"]


def test_a_summary_is_of_the_finite_values() -> None:
    values = torch.tensor([[1.0, -3.0], [math.nan, math.inf]], dtype=torch.float16)
    assert summary(values) == {
        "shape": [2, 2], "dtype": "float16", "nan": 1, "inf": 1, "min": -3.0, "max": 1.0, "mean": -1.0
    }  # fmt: skip
    assert summary(torch.tensor([math.inf])) == {"shape": [1], "dtype": "float32", "nan": 0, "inf": 1}
    assert summary(torch.arange(3)) == {"shape": [3], "dtype": "int64"}
