"""Encoders and operators that run out of memory above a number of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.core.tiny import TinyResNet


class FitsForward(TinyResNet):
    """Its forward pass holds at most `limit` images."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.limit:
            raise torch.OutOfMemoryError(f"{len(images)} images, room for {self.limit}")
        return super().forward(images)


class FailsOnCalls(TinyResNet):
    """Its forward pass fails at the given calls, counted from 1, whatever the number of images."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.calls: set[int] = set()
        self.error = error or torch.OutOfMemoryError("no room")
        self.num_calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.num_calls += 1
        features = super().forward(images)
        if self.num_calls in self.calls:
            raise self.error
        return features


class _BackwardLimit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, limit: int) -> Tensor:
        ctx.limit = limit
        return features.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if len(gradient) > ctx.limit:
            raise torch.OutOfMemoryError(f"{len(gradient)} images, room for {ctx.limit}")
        return gradient, None


class FitsBackward(TinyResNet):
    """Its backward pass holds at most `limit` images; gradients of half the layers exist when it fails."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.bn1 = nn.Sequential(self.bn1, _Limit(limit))


class _Limit(nn.Module):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        return _BackwardLimit.apply(x, self.limit)


class FitsLogits(TorchDispatchMode):
    """No operator may return logits (N, num_negatives) of more than `limit` queries."""

    def __init__(self, num_negatives: int, limit: int) -> None:
        super().__init__()
        self.num_negatives, self.limit = num_negatives, limit

    def __torch_dispatch__(
        self, operator: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = operator(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.dim() == 2 and out.shape[1] == self.num_negatives and len(out) > self.limit:
            raise torch.OutOfMemoryError(f"logits of {len(out)} queries, room for {self.limit}")
        return out
