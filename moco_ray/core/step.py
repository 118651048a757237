"""One training step of any method, for any number of ranks: Algorithm 1 of arXiv:1911.05722, its parts in the method."""

from __future__ import annotations

from functools import partial

import torch

from moco_ray.core import collectives
from moco_ray.core.batch import Batch
from moco_ray.core.encoding import Encoding
from moco_ray.core.group_batch_norm import commit_running_statistics, group_batch_norms
from moco_ray.core.method import Method
from moco_ray.core.micro_batches import MicroBatches
from moco_ray.core.step_result import StepResult


class Learner:
    """A method in training: the model, its optimizer, and how images become numbers on this rank.

    Attributes:
        method: Encoders, heads and dictionary.
        optimizer: Over the parameters that the method trains.
        device: That this rank trains on.
        encode: How images go through a module.
        scaler: Of the loss, in float16: steps whose gradients overflow are skipped. Else it does nothing.
        micro_batches: Passes through the encoders, in as many parts as memory asks for.
    """

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        autocast: torch.dtype | None = None,
        micro_batch_groups: int | None = None,
        compiler: str | None = None,
        compresses_gradients: bool = False,
    ) -> None:
        weight = next(method.query_encoder.parameters())
        self.method, self.optimizer, self.device = method, optimizer, weight.device
        self.encode = Encoding(
            mean=weight.new_tensor(mean), std=weight.new_tensor(std), autocast=autocast, compiler=compiler
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=autocast == torch.float16)
        self.micro_batches = MicroBatches(
            method, optimizer, self.encode, self.scaler, micro_batch_groups, compresses_gradients=compresses_gradients
        )
        self._norms = group_batch_norms(method)

    def step(self, batch: Batch, *, lr: float, progress: float = 0.0) -> StepResult:
        """Train on one global batch of B images, n of them this rank's. All ranks must call, each with its own groups.

        Args:
            batch: This rank's part, x_q and x_k: (n, H, W, 3) uint8.
            lr: Learning rate.
            progress: Share of the run that is done, 0..1, for what the method schedules.
        """
        method, passes = self.method, self.micro_batches
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        with torch.no_grad():
            method.update_key_encoder(progress)  # f_k <- m f_k + (1 - m) f_q
            # k = f_k(x_k), of shuffled BatchNorm groups (n, dim); gathered and unshuffled: (B, dim)
            keys = method.encode_keys(batch, partial(passes.encode, batch))
        # q = f_q(x_q): (n, dim); InfoNCE(q, k, queue): (3,) sums of loss, correct queries and cosines; backward
        sums, outputs = passes.forward_backward(batch, keys)
        self.scaler.step(self.optimizer)  # of f_q
        self.scaler.update()
        with torch.no_grad():
            method.update_dictionary(batch, keys, outputs)  # enqueue(queue, k), dequeue(queue): (K, dim)
        commit_running_statistics(self._norms, batch.num_groups, len(batch.groups[collectives.rank()]))
        return StepResult.over_ranks(sums, batch, method.means(batch.global_batch_size))

    def try_memory(self, batch: Batch) -> None:
        """Find the micro-batch that fits, by a backward pass that is thrown away. All ranks must call."""
        self.micro_batches.try_memory(batch)
