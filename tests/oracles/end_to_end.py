"""The end-to-end mechanism of He et al. 2020, arXiv:1911.05722, Sec. 3.2 and Fig. 2a. Shares no code with moco_ray."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.oracles.functional import Net, sgd


class EndToEndOracle:
    """Encoders q and k, both updated by back-propagation; the dictionary is the current mini-batch."""

    def __init__(self, net: nn.Module, *, t: float, num_gpus: int) -> None:
        self.f_q, self.f_k = Net(net), Net(net)
        self.t, self.num_gpus = t, num_gpus

    def step(self, x_q: Tensor, x_k: Tensor, idx_shuffle: Tensor, lr: float) -> float:
        self.f_q.watch()
        self.f_k.watch()
        q = F.normalize(self.f_q(x_q, groups=self.num_gpus), dim=1)
        k = F.normalize(self.f_k(x_k[idx_shuffle], groups=self.num_gpus), dim=1)[torch.argsort(idx_shuffle)]
        losses = []
        for i in range(len(q)):
            scores = torch.stack([q[i].dot(k[j]) for j in range(len(k))]) / self.t
            losses.append(-torch.log(torch.exp(scores[i]) / torch.exp(scores).sum()))
        loss = torch.stack(losses).mean()
        sgd([self.f_q, self.f_k], loss, lr=lr, momentum=0.9, weight_decay=1e-3)
        return loss.item()
