"""MoCo v3 transcribed from Algorithm 1 of Chen et al. 2021, arXiv:2104.02057. Shares no code with moco_ray."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.oracles.functional import Net, sgd


class MoCoV3Oracle:
    """f_q (backbone, projection, prediction heads), f_k (without the prediction head), symmetrized contrastive loss."""

    def __init__(self, base: nn.Module, predictor: nn.Module, *, tau: float, m: float) -> None:
        self.base_q, self.predictor, self.base_k = Net(base), Net(predictor), Net(base)
        self.tau, self.m = tau, m

    def step(self, x1: Tensor, x2: Tensor, lr: float, progress: float) -> float:
        self.base_q.watch()
        self.predictor.watch()
        q1 = F.normalize(self.predictor(self.base_q(x1)), dim=1)
        q2 = F.normalize(self.predictor(self.base_q(x2)), dim=1)
        m = 1 - (1 - self.m) * (math.cos(math.pi * progress) + 1) / 2
        for name in self.base_k.params:
            if name not in self.base_k.frozen:
                self.base_k.params[name] = m * self.base_k.params[name] + (1 - m) * self.base_q.params[name]
        with torch.no_grad():
            k1 = F.normalize(self.base_k(x1, watched=False), dim=1)
            k2 = F.normalize(self.base_k(x2, watched=False), dim=1)
        loss = self.ctr(q1, k2) + self.ctr(q2, k1)
        sgd([self.base_q, self.predictor], loss, lr=lr, momentum=0.9, weight_decay=1e-3)
        return loss.item()

    def ctr(self, q: Tensor, k: Tensor) -> Tensor:
        logits = q @ k.t()  # (N, N) pairs
        labels = range(len(q))  # positives are in the diagonal
        losses = [torch.logsumexp(logits[i] / self.tau, dim=0) - logits[i, i] / self.tau for i in labels]
        return 2 * self.tau * torch.stack(losses).mean()
