"""SimCLR transcribed from Algorithm 1 of Chen et al. 2020, arXiv:2002.05709. Shares no code with moco_ray."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.oracles.functional import Net, sgd


class SimCLROracle:
    """f and g as one net; BatchNorm over all 2N augmented images ("global BN", Sec. 2.2)."""

    def __init__(self, net: nn.Module, *, tau: float) -> None:
        self.net, self.tau = Net(net), tau

    def step(self, x1: Tensor, x2: Tensor, lr: float) -> float:
        self.net.watch()
        n = len(x1)
        z = self.net(torch.cat([x1, x2]))  # z_k and z_{k + n} are the two views of image k
        norm = z.pow(2).sum(dim=1).sqrt()
        s = (z @ z.t()) / (norm[:, None] * norm[None, :])  # pairwise similarity

        def pair_loss(i: int, j: int) -> Tensor:
            others = [k for k in range(2 * n) if k != i]
            return -(s[i, j] / self.tau) + torch.log(torch.exp(s[i, others] / self.tau).sum())

        losses = [pair_loss(k, k + n) + pair_loss(k + n, k) for k in range(n)]
        loss = torch.stack(losses).sum() / (2 * n)
        sgd([self.net], loss, lr=lr, momentum=0.9, weight_decay=1e-3)
        return loss.item()
