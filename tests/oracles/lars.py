"""LARS as MoCo v3 uses it, one tensor at a time (arXiv:1708.03888, Algorithm 1, with the norm of the decayed gradient)."""

from __future__ import annotations

from torch import Tensor


class LarsOracle:
    """Parameters by name, and their velocities."""

    def __init__(self, params: dict[str, Tensor], *, lr: float, momentum: float, weight_decay: float) -> None:
        self.params = {name: p.detach().clone() for name, p in params.items()}
        self.velocity = {name: p.detach().clone().zero_() for name, p in params.items()}
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay

    def step(self, gradients: dict[str, Tensor]) -> None:
        for name, gradient in gradients.items():
            p, d = self.params[name], gradient
            if p.ndim > 1:
                d = gradient + self.weight_decay * p
                p_norm, d_norm = float((p * p).sum()) ** 0.5, float((d * d).sum()) ** 0.5
                d = d * (0.001 * p_norm / d_norm if p_norm > 0 and d_norm > 0 else 1.0)
            self.velocity[name] = self.momentum * self.velocity[name] + d
            self.params[name] = p - self.lr * self.velocity[name]
