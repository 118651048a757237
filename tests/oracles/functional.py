"""What the transcriptions of single-process pseudocode share: a net as a function of its parameters, and SGD by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Net:
    """Parameters and BatchNorm buffers of a net whose BatchNorm sees all that it is given at once."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.params = {name: p.detach().clone() for name, p in net.named_parameters()}
        self.frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
        self.buffers = {name: b.clone() for name, b in net.named_buffers()}
        self.velocity: dict[str, Tensor] = {}
        self.leaves: dict[str, Tensor] = {}

    def watch(self) -> None:
        """Begin a step: from now on forward passes are recorded for the gradient."""
        self.leaves = {name: p.clone().requires_grad_(name not in self.frozen) for name, p in self.params.items()}

    def __call__(self, x: Tensor, *, groups: int = 1, watched: bool = True) -> Tensor:
        """The net on x, in `groups` parts that each have their own batch statistics."""
        params = self.leaves if watched else self.params
        parts = [torch.func.functional_call(self.net, {**params, **self.buffers}, (part,)) for part in x.chunk(groups)]
        return torch.cat(parts)


def sgd(nets: list[Net], loss: Tensor, *, lr: float, momentum: float, weight_decay: float) -> None:
    """d = g + wd p; v = momentum v + d, v = d at first; p = p - lr v."""
    learned = [(net, name) for net in nets for name in net.leaves if name not in net.frozen]
    gradients = torch.autograd.grad(loss, [net.leaves[name] for net, name in learned])
    for (net, name), gradient in zip(learned, gradients, strict=True):
        d = gradient + weight_decay * net.params[name]
        net.velocity[name] = momentum * net.velocity[name] + d if name in net.velocity else d
        net.params[name] = net.params[name] - lr * net.velocity[name]
