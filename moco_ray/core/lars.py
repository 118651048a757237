"""LARS: SGD whose every matrix moves by a share of its own length (You et al. 2017, arXiv:1708.03888)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from moco_ray.core.eager import Eager


class Lars(Eager):
    """LARS as MoCo v3 and SimCLR train their ResNets with it.

    For each tensor w of more than one dimension, with gradient g: u = g + weight_decay w, scaled by
    trust |w| / |u| where neither is zero; then v = momentum v + u and w = w - lr v. Tensors of one dimension (biases,
    BatchNorm) move by plain momentum: neither weight decay nor trust scaling.
    Differs: the paper divides by |g| + weight_decay |w|, MoCo v3 by |u|.

    State-dict keys are those of timm's Lars.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float, trust: float = 0.001
    ) -> None:
        params = list(params)
        shared = {"lr": lr, "momentum": momentum, "trust_coeff": trust}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in params if p.ndim > 1], "weight_decay": weight_decay, "always_adapt": True},
            {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0, "always_adapt": False},
        ]
        super().__init__([group for group in groups if group["params"]], shared)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            updates = [cast(Tensor, p.grad) for p in params]
            if group["always_adapt"]:
                updates = list(torch._foreach_add(updates, params, alpha=group["weight_decay"]))
                torch._foreach_mul_(updates, _scales(params, updates, group["trust_coeff"]))
            velocities = [self._velocity(p) for p in params]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, updates)
            torch._foreach_add_(params, velocities, alpha=-group["lr"])

    def _velocity(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        return cast(Tensor, state["momentum_buffer"])


def _scales(params: list[Tensor], updates: list[Tensor], trust: float) -> list[Tensor]:
    """trust |w| / |u| of each pair, () each; 1 where one of them is zero. Nothing waits for the device."""
    w, u = (torch.stack(list(torch._foreach_norm(tensors))) for tensors in (params, updates))
    return list(torch.where((w > 0) & (u > 0), trust * w / u, 1.0).unbind())
