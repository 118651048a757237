"""Where the first value that is not finite comes from: in weights, in gradients, or in what modules put out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_KEPT_BEFORE = 16  # modules


@dataclass(frozen=True, kw_only=True)
class Passed:
    """What went through a module."""

    name: str
    """Of the module, as its parent's state dict has it."""
    kind: str
    """Its class."""
    is_input: bool
    """Whether what came in was not finite already."""
    given: list[dict[str, Any]]
    """Of each tensor that came in, what `summary` says."""
    put_out: list[dict[str, Any]]
    """Of each that went out."""
    weights: dict[str, dict[str, Any]]
    """Of the module's own parameters."""


@dataclass(kw_only=True)
class OutputWatch:
    """Inside it, notes the first of a network's modules whose output is not finite; each pass waits for the device."""

    network: nn.Module
    """The network."""
    first: Passed | None = field(default=None, init=False)
    """The module; None: all outputs were finite."""
    before: deque[Passed] = field(default_factory=lambda: deque(maxlen=_KEPT_BEFORE), init=False)
    """Those that were done just before."""
    _handles: list[RemovableHandle] = field(default_factory=list, init=False)

    def __enter__(self) -> Self:
        names = {module: name for name, module in self.network.named_modules() if name}
        for module in names:
            handle = module.register_forward_hook(
                lambda done, given, output: self._see(names[done], done, given, output)
            )
            self._handles.append(handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _see(self, name: str, module: nn.Module, given: Any, output: Any) -> None:
        if self.first is not None:
            return
        is_input = not all(_is_finite(tensor) for tensor in _tensors(given))
        passed = Passed(
            name=name,
            kind=type(module).__name__,
            is_input=is_input,
            given=[summary(tensor) for tensor in _tensors(given)],
            put_out=[summary(tensor) for tensor in _tensors(output)],
            weights={name: summary(weight) for name, weight in module.named_parameters(recurse=False)},
        )
        if is_input or not all(_is_finite(tensor) for tensor in _tensors(output)):
            self.first = passed
        else:
            self.before.append(passed)


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold values that are not finite, in their order."""
    return [name for name, tensor in tensors.items() if tensor.is_floating_point() and not _is_finite(tensor)]


def weights_not_finite(network: nn.Module) -> list[str]:
    """The same for all that decides on a network's training: not for the running statistics of BatchNorm."""
    return not_finite({name: value for name, value in network.state_dict().items() if ".running_" not in name})


def gradients_not_finite(network: nn.Module) -> list[str]:
    """The same for the gradients of its weights, those nearest to the output first, where they begin."""
    gradients = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    return not_finite(gradients)[::-1]


def summary(tensor: Tensor) -> dict[str, Any]:
    """Shape and statistics of a tensor: of its finite values, and how many others there are."""
    says: dict[str, Any] = {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
    if not tensor.is_floating_point():
        return says
    is_finite = torch.isfinite(tensor)
    num_finite = int(is_finite.sum())
    says |= {"nan": int(torch.isnan(tensor).sum()), "inf": tensor.numel() - num_finite - int(torch.isnan(tensor).sum())}
    if num_finite:  # by no index, which would take many times the memory of the tensor
        low, high, total = tensor.detach(), tensor.detach(), tensor.detach()
        if num_finite < tensor.numel():
            low, high = torch.where(is_finite, low, math.inf), torch.where(is_finite, high, -math.inf)
            total = torch.where(is_finite, total, 0.0)
        mean = float(total.sum(dtype=torch.float64)) / num_finite
        says |= {"min": float(low.amin()), "max": float(high.amax()), "mean": mean}
    return says


def largest(summaries: Iterable[Mapping[str, Any]]) -> float | None:
    """The largest finite absolute value of what summaries are of; None where there is none."""
    return max((abs(one[end]) for one in summaries for end in ("min", "max") if end in one), default=None)


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _tensors(value: Any) -> Iterator[Tensor]:
    """Tensors of floating point in whatever a module takes or gives."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
