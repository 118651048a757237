"""Passes through the encoders in micro-batches: tried smaller until memory suffices, with one result on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from moco_ray.core import collectives
from moco_ray.core.batch import Batch
from moco_ray.core.encoding import Encoding
from moco_ray.core.global_batch_norm import has_global_batch_norm
from moco_ray.core.group_batch_norm import group_batch_norms
from moco_ray.core.info_nce import Loss
from moco_ray.core.method import Encode, Method
from moco_ray.core.out_of_memory import ran_out_of_memory

_ALL = slice(None)

T = TypeVar("T")


class MicroBatches:
    """How a batch goes through a method's encoders: forward, and backward with gradients averaged over ranks.

    Attributes:
        groups: BatchNorm groups that go through an encoder at once. Halved when memory runs out; it changes memory
            and time, never the result.
    """

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        encode: Encoding,
        scaler: torch.amp.GradScaler,
        groups: int | None,
        *,
        compresses_gradients: bool,
    ) -> None:
        self.groups = groups or 2**30
        self._agreed_groups = self.groups  # the same on all ranks, where a rank may need smaller ones later
        self._method, self._optimizer, self._encode, self._scaler = method, optimizer, encode, scaler
        self._device = encode.mean.device
        self._is_whole = any(has_global_batch_norm(module) for module in method.query_modules())
        self._queries = _Queries(method, encode)
        self._synced: nn.Module = self._queries
        if collectives.world_size() > 1:
            ids = [self._device.index] if self._device.type == "cuda" else None
            self._synced = DistributedDataParallel(
                self._queries, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )
            if compresses_gradients:
                self._synced.register_comm_hook(None, bf16_compress_hook)

    def encode(self, batch: Batch, module: nn.Module, x: Tensor) -> Tensor:
        """Apply a module without gradient: images (n, H, W, 3) of a batch in micro-batches, features (n, d) at once."""
        if x.dtype != torch.uint8:
            return self._encode(module, x)

        def work() -> Tensor:
            return torch.cat([self._encode(module, x[part]) for part in self._parts(x, batch)])

        return self._until_it_fits(x, batch, work, module)

    def forward_backward(self, batch: Batch, keys: Any) -> tuple[Tensor, list[Tensor]]:
        """Gradients of the loss over the global batch, averaged over ranks. All ranks must call.

        Returns:
            sums: (3,) float64 sums of loss, correct queries and cosines over this rank's queries.
            outputs: Of each query module, (n, d), for all of this rank's images, without gradient.
        """
        images = self._method.query_images(batch)  # (n, H, W, 3) for each query module
        return self._until_it_fits(images[0], batch, lambda: self._gradients(images, batch, keys))

    def try_memory(self, batch: Batch) -> None:
        """Find the micro-batch that fits, by a backward pass that is thrown away. All ranks must call.

        It takes as many groups as this rank will ever hold, which may be one more than it holds now.
        """
        if self._is_whole:
            return
        most = -(-batch.num_groups // collectives.world_size()) * batch.group_size
        rows = torch.arange(most, device=batch.query.device) % len(batch.query)
        images = self._method.query_images(batch.take(rows))

        def work() -> None:
            for part in self._parts(images[0], batch):
                with self._no_sync():
                    self._method.probe_loss(self._synced([x[part] for x in images])).backward()

        self._until_it_fits(images[0], batch, work)
        self._forget()
        if not self._method.is_separable:
            self._agreed_groups = collectives.all_reduce_min(self.groups, self._device)

    def _gradients(self, images: list[Tensor], batch: Batch, keys: Any) -> tuple[Tensor, list[Tensor]]:
        self._optimizer.zero_grad()
        parts = self._parts(images[0], batch)
        if not self._method.is_separable:
            if self._some_rank_cuts(images[0], batch):
                return self._cached_gradients(images, batch, keys, parts)
            parts = [_ALL]
            self._sync_has_begun = True  # a rank that began to cut now would meet the others in another order
        sums = torch.zeros(3, dtype=torch.float64, device=self._device)
        outputs = []
        for part in parts:
            is_last = part == parts[-1]
            with nullcontext() if is_last else self._no_sync():
                output = self._synced([x[part] for x in images])
                self._sync_has_begun = is_last  # from here on DDP reduces whatever backward pass comes next
                loss = self._method.loss(output, keys, part, batch, self._encode)
                self._backward(loss, batch)
            sums += _sums(loss)
            outputs.append([x.detach() for x in output])
        return sums, [torch.cat(pieces) for pieces in zip(*outputs, strict=True)]

    def _cached_gradients(
        self, images: list[Tensor], batch: Batch, keys: Any, parts: list[slice]
    ) -> tuple[Tensor, list[Tensor]]:
        """The same for a loss that needs the whole batch, in micro-batches (Gao et al. 2021, arXiv:2101.06983, Sec. 3).

        Outputs of all micro-batches without gradient; the loss, its gradient for them and for the heads; then each
        micro-batch once more, backward from its share of that gradient.
        """
        with torch.no_grad():
            pieces = [self._queries([x[part] for x in images]) for part in parts]
        for module in self._method.query_modules():
            for norm in group_batch_norms(module):
                norm.discard_pending()  # the same groups pass once more
        outputs = [torch.cat(output).requires_grad_() for output in zip(*pieces, strict=True)]  # (n, d) each
        self._sync_has_begun = True  # in the loss, ranks meet
        loss = self._method.loss(outputs, keys, _ALL, batch, self._encode)
        self._backward(loss, batch)
        gradients = [output.grad for output in outputs if output.grad is not None]  # (n, d) each
        for part in parts:
            is_last = part == parts[-1]
            with nullcontext() if is_last else self._no_sync():
                again = self._synced([x[part] for x in images], touches_heads=is_last)
                torch.autograd.backward(again, [gradient[part] for gradient in gradients])
        return _sums(loss), [output.detach() for output in outputs]

    def _backward(self, loss: Loss, batch: Batch) -> None:
        """Backward from the mean over the global batch: DDP's mean over ranks takes the world size out again."""
        self._scaler.scale(loss.total * (collectives.world_size() / batch.global_batch_size)).backward()

    def _no_sync(self) -> AbstractContextManager[None]:
        if isinstance(self._synced, DistributedDataParallel):
            return self._synced.no_sync()
        return nullcontext()

    def _parts(self, images: Tensor, batch: Batch) -> list[slice]:
        """Where the micro-batches are in this rank's images."""
        size = self._groups_at_once(images, batch) * batch.group_size
        return [slice(start, start + size) for start in range(0, len(images), size)]

    def _groups_at_once(self, images: Tensor, batch: Batch) -> int:
        groups = len(images) // batch.group_size
        return groups if self._is_whole else min(self.groups, groups)

    def _some_rank_cuts(self, images: Tensor, batch: Batch) -> bool:
        """Whether the rank with the most groups needs more than one micro-batch: all ranks decide alike."""
        if self._is_whole:
            return False
        if collectives.world_size() == 1:
            return len(self._parts(images, batch)) > 1
        images_a_group = len(images) // len(batch.groups[collectives.rank()])
        most = max(len(groups) for groups in batch.groups) * images_a_group // batch.group_size
        return most > self._agreed_groups

    def _until_it_fits(self, images: Tensor, batch: Batch, work: Callable[[], T], module: nn.Module | None = None) -> T:
        """Run work; where memory runs out, forget it and run it again in micro-batches of half the size."""
        while True:
            self._sync_has_begun = False
            try:
                return work()
            except RuntimeError as error:
                if not ran_out_of_memory(error):
                    raise
                groups = self._groups_at_once(images, batch)
                if groups == 1 or self._is_whole:
                    raise ValueError(f"{self._does_not_fit(batch)} ({_first_line(error)})") from error
                if self._sync_has_begun and collectives.world_size() > 1:
                    raise  # other ranks already wait inside the gradient reduction: only a restart is safe
            self.groups = (groups + 1) // 2
            self._forget(module)  # only now: the error held on to the activations

    def _does_not_fit(self, batch: Batch) -> str:
        side = batch.query.shape[1]
        if self._is_whole:
            return (
                f"this worker's {len(batch.query)} images of {side} pixels do not fit into memory, and BatchNorm over the "
                "global batch allows no micro-batches; use more workers, a smaller optim.global-batch-size or "
                "views.crop-px, or a ViT, which needs BatchNorm in its heads only"
            )
        return (
            f"one BatchNorm group of {batch.group_size} images of {side} pixels does not fit into memory; use more "
            "optim.bn-groups (smaller groups) or a smaller views.crop-px"
        )

    def _forget(self, module: nn.Module | None = None) -> None:
        """Undo what an interrupted pass left behind: through one encoder, or through all that is trained."""
        if module is None:
            self._optimizer.zero_grad()
        for part in [module] if module is not None else self._method.trained():
            for norm in group_batch_norms(part):
                norm.discard_pending()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


class _Queries(nn.Module):
    """All that is trained as one module, as DistributedDataParallel wants it: forward through the query modules."""

    def __init__(self, method: Method, encode: Encode) -> None:
        super().__init__()
        self.trained = nn.ModuleList(method.trained())
        self._in_order, self._encode = tuple(method.query_modules()), encode
        encoding = {id(parameter) for module in self._in_order for parameter in module.parameters()}
        self._heads = [p for p in self.trained.parameters() if p.requires_grad and id(p) not in encoding]

    def forward(self, images: list[Tensor], touches_heads: bool = False) -> list[Tensor]:
        """Outputs of each query module. With touches_heads the heads, whose gradients are there already, count as used."""
        outputs = [self._encode(module, x) for module, x in zip(self._in_order, images, strict=True)]
        if touches_heads:
            outputs[0] = outputs[0] + sum(0.0 * parameter.reshape(-1)[0] for parameter in self._heads)
        return outputs


def _sums(loss: Loss) -> Tensor:
    """Loss, correct queries and cosines, (3,) float64."""
    return torch.stack([value.detach().double() for value in loss])


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
