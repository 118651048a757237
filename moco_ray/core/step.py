"""One training step: Algorithm 1 of the paper (He et al. 2020, arXiv:1911.05722), for any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from moco_ray.core import collectives
from moco_ray.core.batch import Batch
from moco_ray.core.encoders import momentum_update, normalize
from moco_ray.core.group_batch_norm import group_batch_norms
from moco_ray.core.hashing import rows_digest
from moco_ray.core.layout import gather_groups
from moco_ray.core.moco import MoCo, info_nce, info_nce_logits


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step measured over the global batch; still on the device, so that nobody waits for it."""

    totals: Tensor
    """(7,) float64: loss sum, queries that find their key, sum of cosines of query and key, and the row
    digest as four sums of 16-bit words, all summed over ranks."""
    global_batch_size: int
    """Images that the sums are over."""

    def values(self) -> dict[str, float | int]:
        """Wait for the step and read train/loss, train/contrast_accuracy (percent), cosine and rows_digest."""
        loss, correct, cosine, *words = self.totals.tolist()
        digest = sum(int(word) << (16 * i) for i, word in enumerate(words)) % 2**64
        n = self.global_batch_size
        return {
            "train/loss": loss / n,
            "train/contrast_accuracy": 100.0 * correct / n,
            "train/positive_cosine": cosine / n,
            "rows_digest": digest,
        }


class Learner:
    """MoCo in training: the model, its optimizer, and how images become numbers on this rank.

    Attributes:
        moco: Encoders and queue.
        optimizer: Over the query encoder's parameters.
        micro_batch_groups: BatchNorm groups that go through an encoder at once. Halved when memory runs out;
            it changes memory and time, never the result.
    """

    def __init__(
        self,
        moco: MoCo,
        optimizer: torch.optim.Optimizer,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        autocast: torch.dtype | None = None,
        micro_batch_groups: int | None = None,
    ) -> None:
        parameter = next(moco.query_encoder.parameters())
        self.moco = moco
        self.optimizer = optimizer
        self.micro_batch_groups = micro_batch_groups or 2**30
        self.device = parameter.device
        self._autocast = autocast
        self._mean = torch.tensor(mean, dtype=parameter.dtype, device=self.device)
        self._std = torch.tensor(std, dtype=parameter.dtype, device=self.device)
        self._query_forward: nn.Module = moco.query_encoder
        if collectives.world_size() > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self._query_forward = DistributedDataParallel(
                moco.query_encoder, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def step(self, batch: Batch, *, lr: float) -> StepResult:
        """Train on one global batch. All ranks must call, each with its own groups."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        momentum_update(self.moco.key_encoder, self.moco.query_encoder, self.moco.config.encoder_momentum)
        k = self._encode_keys(batch)  # (B, dim), rows in order, the same on all ranks
        k_own = k[batch.own_rows().to(self.device, non_blocking=True)]  # (n, dim)
        totals = self._halve_until_it_fits(
            batch, self.moco.query_encoder, lambda: self._query_pass(batch, k_own, sync=True)
        )
        self.optimizer.step()
        self.moco.queue.enqueue(k)
        for norm in group_batch_norms(self.moco):
            norm.commit_pending(batch.num_groups)
        return self._result(batch, totals)

    def try_memory(self, batch: Batch) -> None:
        """Find the micro-batch that fits, by a backward pass that is thrown away and meets no other rank.

        It takes as many groups as this rank will ever hold, which may be one more than it holds now.
        """
        most = -(-batch.num_groups // collectives.world_size()) * batch.group_size
        rows = torch.arange(most, device=batch.query.device) % len(batch.query)
        batch = replace(batch, query=batch.query[rows], key=batch.key[rows])
        k = torch.zeros_like(self.moco.queue.keys[:1]).expand(len(batch.query), -1)
        self._halve_until_it_fits(batch, self.moco.query_encoder, lambda: self._query_pass(batch, k, sync=False))
        self._forget(self.moco.query_encoder)

    @torch.no_grad()
    def _encode_keys(self, batch: Batch) -> Tensor:
        """Encode the key views of this rank's slots, gather all slots and undo the shuffle. All ranks call."""

        def encode() -> Tensor:
            parts = batch.key.split(self._micro_batch_images(batch))
            return torch.cat([self._embed(self.moco.key_encoder, part) for part in parts])

        own = self._halve_until_it_fits(batch, self.moco.key_encoder, encode)  # (n, dim)
        slots = gather_groups(own, batch.groups, batch.group_size)  # (B, dim), slot order
        k = torch.empty_like(slots)
        k[torch.from_numpy(batch.key_rows_of_slots).to(slots.device, non_blocking=True)] = slots  # unshuffle: row order
        return k

    def _query_pass(self, batch: Batch, k: Tensor, *, sync: bool) -> Tensor:
        """Gradients of all micro-batches; with sync, the last one averages them over ranks and all must call."""
        self.optimizer.zero_grad(set_to_none=False)
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        size = self._micro_batch_images(batch)
        starts = range(0, len(batch.query), size)
        scale = collectives.world_size() / batch.global_batch_size  # DDP divides by the world size
        for start in starts:
            last = start == starts[-1]
            with nullcontext() if sync and last else self._no_sync():
                q = self._embed(self._query_forward, batch.query[start : start + size])  # (n, dim)
                self._sync_has_begun = sync and last  # from here on DDP reduces whatever backward pass comes next
                k_part = k[start : start + size]
                logits = info_nce_logits(q, k_part, self.moco.queue.keys, self.moco.config.temperature)
                loss, num_correct = info_nce(logits)
                (loss * scale).backward()
            cosine = (q.detach() * k_part).sum()
            totals += torch.stack([loss.detach().double(), num_correct.double(), cosine.double()])
        return totals

    def _embed(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """Images (n, H, W, 3) uint8 -> unit vectors (n, dim)."""
        with torch.autocast(self.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            projections = encoder(normalize(images, self._mean, self._std))
        return F.normalize(projections.to(self._mean.dtype), dim=1)

    def _result(self, batch: Batch, totals: Tensor) -> StepResult:
        digest = rows_digest(batch.rows)
        words = [float(digest >> (16 * i) & 0xFFFF) for i in range(4)]  # sums of 16-bit words are exact in float64
        own = torch.cat([totals, torch.tensor(words, dtype=torch.float64).to(self.device, non_blocking=True)])
        return StepResult(totals=collectives.all_reduce_sum(own), global_batch_size=batch.global_batch_size)

    def _micro_batch_images(self, batch: Batch) -> int:
        return min(self.micro_batch_groups * batch.group_size, len(batch.query))

    def _no_sync(self) -> AbstractContextManager[None]:
        if isinstance(self._query_forward, DistributedDataParallel):
            return self._query_forward.no_sync()
        return nullcontext()

    def _halve_until_it_fits(self, batch: Batch, encoder: nn.Module, work: Callable[[], Tensor]) -> Tensor:
        """Run work; where memory runs out, forget it and run it again in micro-batches of half the size."""
        while True:
            self._sync_has_begun = False
            try:
                return work()
            except torch.OutOfMemoryError as error:
                groups = self._micro_batch_images(batch) // batch.group_size
                if groups == 1:
                    raise ValueError(
                        f"one BatchNorm group of {batch.group_size} images of {batch.query.shape[1]} pixels does not "
                        "fit into memory; use more optim.bn-groups (smaller groups) or a smaller views.crop-px"
                    ) from error
                if self._sync_has_begun and collectives.world_size() > 1:
                    raise  # other ranks already wait inside the gradient reduction: only a restart is safe
            self.micro_batch_groups = (groups + 1) // 2
            self._forget(encoder)  # only now: the error held on to the activations

    def _forget(self, encoder: nn.Module) -> None:
        self.optimizer.zero_grad(set_to_none=False)
        for norm in group_batch_norms(encoder):
            norm.discard_pending()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
