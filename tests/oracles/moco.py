"""MoCo v1 and v2 transcribed from the papers' pseudocode, as plainly as possible, for tests to compare against.

Sources: He et al. 2020, arXiv:1911.05722 (Algorithm 1, Sec. 3.2 and 3.3) and arXiv:2003.04297 (Sec. 3). G GPUs are
simulated in one process: each forwards its own images through the net with BatchNorm buffers of its own. The queue is
(dim, K) and its keys are columns. Shares no code with moco_ray.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def to_tensor(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (N, H, W, 3) -> standardised float64 (N, 3, H, W), as ToTensor and Normalize do."""
    x = images.permute(0, 3, 1, 2).contiguous().double() / 255
    return (x - x.new_tensor(mean).view(1, 3, 1, 1)) / x.new_tensor(std).view(1, 3, 1, 1)


def learning_rate(lr: float, epoch: int, epochs: int, *, cosine: bool, milestones: tuple[int, ...] = ()) -> float:
    """The rate of a whole epoch: half a cosine (v2), or a tenth from each milestone on (v1)."""
    if cosine:
        return lr * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
    for milestone in milestones:
        if epoch >= milestone:
            lr = lr * 0.1
    return lr


class MoCoOracle:
    """f_q, f_k, the queue, and SGD with momentum and weight decay written out."""

    def __init__(
        self,
        net: nn.Module,
        queue: Tensor,
        *,
        num_gpus: int,
        temperature: float,
        m: float,
        sgd_momentum: float,
        weight_decay: float,
    ) -> None:
        self.net = net
        self.num_gpus, self.t, self.m = num_gpus, temperature, m
        self.sgd_momentum, self.weight_decay = sgd_momentum, weight_decay
        self.f_q = {name: p.detach().clone() for name, p in net.named_parameters()}
        self.f_k = {name: p.detach().clone() for name, p in net.named_parameters()}  # f_k.params = f_q.params
        self.buffers_q = [{name: b.clone() for name, b in net.named_buffers()} for _ in range(num_gpus)]
        self.buffers_k = [{name: b.clone() for name, b in net.named_buffers()} for _ in range(num_gpus)]
        self.queue = queue.clone()  # (dim, K)
        self.queue_ptr = 0
        self.velocity: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}

    def step(self, x_q: Tensor, x_k: Tensor, idx_shuffle: Tensor, lr: float, *, symmetric: bool = False) -> float:
        """One minibatch, N images in the order of the GPUs; idx_shuffle is the shuffling-BN permutation.

        Symmetric, as an option of the reference's CIFAR-10 demo: the sum of both losses, both keys enqueued. There the
        second queries are the ones whose BatchNorm groups are shuffled, and not their keys.
        """
        params = {name: p.clone().requires_grad_() for name, p in self.f_q.items()}
        as_it_is = torch.arange(len(x_q))

        # f_k.params = m * f_k.params + (1 - m) * f_q.params
        for name in self.f_k:
            self.f_k[name] = self.m * self.f_k[name] + (1 - self.m) * self.f_q[name]

        q = self.forward(params, self.buffers_q, x_q, as_it_is)
        with torch.no_grad():
            k = self.forward(self.f_k, self.buffers_k, x_k, idx_shuffle)
        loss = self.contrastive_loss(q, k)
        if symmetric:
            q2 = self.forward(params, self.buffers_q, x_k, idx_shuffle)
            with torch.no_grad():
                k2 = self.forward(self.f_k, self.buffers_k, x_q, as_it_is)
            loss = loss + self.contrastive_loss(q2, k2)
            k = torch.cat([k, k2])
        gradients = torch.autograd.grad(loss, list(params.values()))
        self.gradients = dict(zip(params, gradients, strict=True))

        # SGD: d = g + wd p; v = momentum v + d, v = d at first; p = p - lr v
        for name, gradient in self.gradients.items():
            d = gradient + self.weight_decay * self.f_q[name]
            self.velocity[name] = self.sgd_momentum * self.velocity[name] + d if name in self.velocity else d
            self.f_q[name] = self.f_q[name] - lr * self.velocity[name]

        # enqueue(queue, k), dequeue(queue): the newest keys replace the oldest, one column after another
        for key in k:
            self.queue[:, self.queue_ptr] = key
            self.queue_ptr = (self.queue_ptr + 1) % self.queue.shape[1]
        return loss.item()

    def forward(
        self, params: dict[str, Tensor], buffers: list[dict[str, Tensor]], x: Tensor, idx_shuffle: Tensor
    ) -> Tensor:
        """normalize(f.forward(x)): shuffle the samples over the GPUs, forward each GPU's own, undo the shuffle."""
        outputs = [
            F.normalize(torch.func.functional_call(self.net, {**params, **buffers[gpu]}, (part,)), dim=1)
            for gpu, part in enumerate(x[idx_shuffle].chunk(self.num_gpus))
        ]
        return torch.cat(outputs)[torch.argsort(idx_shuffle)]

    def contrastive_loss(self, q: Tensor, k: Tensor) -> Tensor:
        """On each GPU the cross-entropy of [l_pos, l_neg] / t with label 0, mean over its images; mean over GPUs."""
        losses = []
        for q_gpu, k_gpu in zip(q.chunk(self.num_gpus), k.chunk(self.num_gpus), strict=True):
            l_pos = torch.einsum("nc,nc->n", q_gpu, k_gpu).unsqueeze(-1)
            l_neg = torch.einsum("nc,ck->nk", q_gpu, self.queue.clone())
            logits = torch.cat([l_pos, l_neg], dim=1) / self.t
            losses.append((torch.logsumexp(logits, dim=1) - logits[:, 0]).mean())
        return sum(losses[1:], losses[0]) / self.num_gpus

    def mean_running_statistics(self, buffers: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Mean over the GPUs of their BatchNorm running statistics."""
        names = [name for name in buffers[0] if name.endswith(("running_mean", "running_var"))]
        return {name: torch.stack([gpu[name] for gpu in buffers]).mean(dim=0) for name in names}
