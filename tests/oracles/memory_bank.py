"""The memory bank of Wu et al. 2018, arXiv:1805.01978, with InfoNCE (He et al. 2020, arXiv:1911.05722, Fig. 2b).

Shares no code with moco_ray.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.oracles.functional import Net, sgd


class MemoryBankOracle:
    """One encoder; v_i is the stored key of image i."""

    def __init__(self, net: nn.Module, bank: Tensor, *, t: float, m: float, num_gpus: int) -> None:
        self.f, self.bank = Net(net), [v.clone() for v in bank]
        self.t, self.m, self.num_gpus = t, m, num_gpus

    def step(self, x: Tensor, images: list[int], sample: list[int], lr: float) -> float:
        """`images` are the indices of x in the data set, `sample` those of the entries that are negatives."""
        self.f.watch()
        q = self.f(x, groups=self.num_gpus)
        q = q / q.pow(2).sum(dim=1, keepdim=True).sqrt()
        losses = []
        for i, image in enumerate(images):
            positive = torch.exp(q[i].dot(self.bank[image]) / self.t)
            negatives = [torch.exp(q[i].dot(self.bank[j]) / self.t) for j in sample if j != image]
            losses.append(-torch.log(positive / (positive + torch.stack(negatives).sum())))
        loss = torch.stack(losses).mean()
        before = [v.clone() for v in self.bank]
        for i, image in enumerate(images):  # of an image that is in the batch twice, the later one counts
            v = self.m * before[image] + (1 - self.m) * q[i].detach()
            self.bank[image] = v / v.pow(2).sum().sqrt()
        sgd([self.f], loss, lr=lr, momentum=0.9, weight_decay=1e-3)
        return loss.item()
