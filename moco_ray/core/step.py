"""One training step of any method, for any number of ranks: Algorithm 1 of arXiv:1911.05722, its parts in the method."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from moco_ray.core import collectives
from moco_ray.core.batch import Batch
from moco_ray.core.encoders import normalize
from moco_ray.core.global_batch_norm import has_global_batch_norm
from moco_ray.core.group_batch_norm import commit_pending, group_batch_norms
from moco_ray.core.hashing import rows_digest
from moco_ray.core.info_nce import Loss
from moco_ray.core.method import Method
from moco_ray.core.out_of_memory import ran_out_of_memory

_ALL = slice(None)
_MOST_SHAPES = 64  # of micro-batches through one encoder, with and without gradient: torch gives up after 8

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step measured over the global batch; still on the device, so that nobody waits for it."""

    totals: Tensor
    """(7,) float64: loss sum, queries that find their key, sum of cosines of query and key, and the row
    digest as four sums of 16-bit words, all summed over ranks."""
    global_batch_size: int
    """Images that the sums are over."""
    queries_per_image: int = 1
    """Queries of each of them."""

    def values(self) -> dict[str, float | int]:
        """Wait for the step and read train/loss, train/contrast_accuracy (percent), cosine and rows_digest."""
        loss, correct, cosine, *words = self.totals.tolist()
        digest = sum(int(word) << (16 * i) for i, word in enumerate(words)) % 2**64
        queries = self.global_batch_size * self.queries_per_image
        return {
            "train/loss": loss / self.global_batch_size,
            "train/contrast_accuracy": 100.0 * correct / queries,
            "train/positive_cosine": cosine / queries,
            "rows_digest": digest,
        }


class Learner:
    """A method in training: the model, its optimizer, and how images become numbers on this rank.

    Attributes:
        method: Encoders, heads and dictionary.
        optimizer: Over the parameters that the method trains.
        micro_batch_groups: BatchNorm groups that go through a trunk at once. Halved when memory runs out;
            it changes memory and time, never the result.
        scaler: Of the loss, in float16: steps whose gradients overflow are skipped. Else it does nothing.
        compiler: torch.compile's backend for what images go through; None: it is not compiled.
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
        parameter = next(method.query_encoder.parameters())
        self.method = method
        self.optimizer = optimizer
        self.micro_batch_groups = micro_batch_groups or 2**30
        self._agreed_groups = self.micro_batch_groups  # the same on all ranks, where a rank may need smaller ones later
        self.device = parameter.device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=autocast == torch.float16)
        self.compiler = compiler
        self._autocast = autocast
        self._mean = torch.tensor(mean, dtype=parameter.dtype, device=self.device)
        self._std = torch.tensor(std, dtype=parameter.dtype, device=self.device)
        self._is_whole = any(has_global_batch_norm(trunk) for trunk in method.trunks())
        self._norms = group_batch_norms(method)
        self._trunks = _Trunks(method, self._apply)
        self._synced: nn.Module = self._trunks
        if collectives.world_size() > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self._synced = DistributedDataParallel(
                self._trunks, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )
            if compresses_gradients:
                self._synced.register_comm_hook(None, bf16_compress_hook)

    @property
    def dtype(self) -> torch.dtype:
        """In which encoders compute."""
        return self._autocast or self._mean.dtype

    def step(self, batch: Batch, *, lr: float, progress: float = 0.0) -> StepResult:
        """Train on one global batch. All ranks must call, each with its own groups.

        Args:
            batch: This rank's part.
            lr: Learning rate.
            progress: Share of the run that is done, 0..1, for what the method schedules.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        method = self.method
        images = method.images(batch)  # (n, H, W, 3) for each trunk
        method.begin(progress)
        with torch.no_grad():
            keys = method.keys(batch, self._apply_in_parts(batch))
        totals, outputs = self._until_it_fits(images[0], batch, lambda: self._gradients(images, batch, keys))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            method.end(batch, keys, outputs)
        own_groups = len(batch.groups[collectives.rank()])
        commit_pending(self._norms, batch.num_groups, own_groups)
        return self._result(batch, totals)

    def try_memory(self, batch: Batch) -> None:
        """Find the micro-batch that fits, by a backward pass that is thrown away. All ranks must call.

        It takes as many groups as this rank will ever hold, which may be one more than it holds now.
        """
        if self._is_whole:
            return
        most = -(-batch.num_groups // collectives.world_size()) * batch.group_size
        rows = torch.arange(most, device=batch.query.device) % len(batch.query)
        images = self.method.images(replace(batch, query=batch.query[rows], key=batch.key[rows]))

        def work() -> None:
            for part in self._parts(images[0], batch):
                with self._no_sync():
                    self.method.trial_loss(self._synced([x[part] for x in images])).backward()

        self._until_it_fits(images[0], batch, work)
        self._forget()
        if not self.method.is_separable:
            self._agreed_groups = collectives.all_reduce_min(self.micro_batch_groups, self.device)

    def _gradients(self, images: list[Tensor], batch: Batch, keys: Any) -> tuple[Tensor, list[Tensor]]:
        """Gradients of the loss over the global batch, averaged over ranks. All ranks must call.

        Returns:
            totals: (3,) float64 sums of loss, correct queries and cosines over this rank's queries.
            outputs: Of each trunk for all of this rank's images, without gradient.
        """
        self.optimizer.zero_grad()
        parts = self._parts(images[0], batch)
        if not self.method.is_separable:
            if self._some_rank_cuts(images[0], batch):
                return self._cached_gradients(images, batch, keys, parts)
            parts = [_ALL]
            self._sync_has_begun = True  # a rank that began to cut now would meet the others in another order
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        outputs = []
        for part in parts:
            is_last = part == parts[-1]
            with nullcontext() if is_last else self._no_sync():
                output = self._synced([x[part] for x in images])
                self._sync_has_begun = is_last  # from here on DDP reduces whatever backward pass comes next
                loss = self.method.loss(output, keys, part, batch, self._apply)
                self._backward(loss, batch)
            totals += _sums(loss)
            outputs.append([x.detach() for x in output])
        return totals, [torch.cat(pieces) for pieces in zip(*outputs, strict=True)]

    def _cached_gradients(
        self, images: list[Tensor], batch: Batch, keys: Any, parts: list[slice]
    ) -> tuple[Tensor, list[Tensor]]:
        """The same for a loss that needs the whole batch, in micro-batches (Gao et al. 2021, arXiv:2101.06983, Sec. 3).

        Outputs of all micro-batches without gradient; the loss, its gradient for them and for the heads; then each
        micro-batch once more, backward from its share of that gradient.
        """
        with torch.no_grad():
            pieces = [self._trunks([x[part] for x in images]) for part in parts]
        for trunk in self.method.trunks():
            for norm in group_batch_norms(trunk):
                norm.discard_pending()  # the same groups pass once more
        outputs = [torch.cat(output).requires_grad_() for output in zip(*pieces, strict=True)]
        self._sync_has_begun = True  # in the loss, ranks meet
        loss = self.method.loss(outputs, keys, _ALL, batch, self._apply)
        self._backward(loss, batch)
        gradients = [output.grad for output in outputs if output.grad is not None]
        for part in parts:
            is_last = part == parts[-1]
            with nullcontext() if is_last else self._no_sync():
                again = self._synced([x[part] for x in images], touches_heads=is_last)
                torch.autograd.backward(again, [gradient[part] for gradient in gradients])
        return _sums(loss), [output.detach() for output in outputs]

    def _backward(self, loss: Loss, batch: Batch) -> None:
        """Backward from the mean over the global batch: DDP's mean over ranks takes the world size out again."""
        self.scaler.scale(loss.total * (collectives.world_size() / batch.global_batch_size)).backward()

    def _apply(self, module: nn.Module, x: Tensor) -> Tensor:
        """Apply a module to uint8 images (n, H, W, 3) or features (n, d); the result in the training dtype."""
        if x.dtype == torch.uint8:
            self._compile(module)
            x = normalize(x, self._mean, self._std, self.dtype)
        with torch.autocast(self.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            output: Tensor = module(x)
        return output.to(self._mean.dtype)

    def _compile(self, module: nn.Module) -> None:
        """Compile a module that images go through, when the first ones do; its keys stay."""
        if self.compiler and module._compiled_call_impl is None:
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_SHAPES)
            module.compile(backend=self.compiler, dynamic=False)

    def _apply_in_parts(self, batch: Batch) -> Callable[[nn.Module, Tensor], Tensor]:
        """`_apply` without gradient, whose images go through in micro-batches."""

        def apply(module: nn.Module, x: Tensor) -> Tensor:
            if x.dtype != torch.uint8:
                return self._apply(module, x)

            def work() -> Tensor:
                return torch.cat([self._apply(module, x[part]) for part in self._parts(x, batch)])

            return self._until_it_fits(x, batch, work, module)

        return apply

    def _parts(self, images: Tensor, batch: Batch) -> list[slice]:
        """Where the micro-batches are in this rank's images."""
        size = self._groups_at_once(images, batch) * batch.group_size
        return [slice(start, start + size) for start in range(0, len(images), size)]

    def _groups_at_once(self, images: Tensor, batch: Batch) -> int:
        groups = len(images) // batch.group_size
        return groups if self._is_whole else min(self.micro_batch_groups, groups)

    def _some_rank_cuts(self, images: Tensor, batch: Batch) -> bool:
        """Whether the rank with the most groups needs more than one micro-batch: all ranks decide alike."""
        if self._is_whole:
            return False
        if collectives.world_size() == 1:
            return len(self._parts(images, batch)) > 1
        images_a_group = len(images) // len(batch.groups[collectives.rank()])
        most = max(len(groups) for groups in batch.groups) * images_a_group // batch.group_size
        return most > self._agreed_groups

    def _result(self, batch: Batch, totals: Tensor) -> StepResult:
        digest = rows_digest(batch.rows)
        words = [float(digest >> (16 * i) & 0xFFFF) for i in range(4)]  # sums of 16-bit words are exact in float64
        own = torch.cat([totals, torch.tensor(words, dtype=torch.float64).to(self.device, non_blocking=True)])
        return StepResult(
            totals=collectives.all_reduce_sum(own),
            global_batch_size=batch.global_batch_size,
            queries_per_image=self.method.queries_per_image,
        )

    def _no_sync(self) -> AbstractContextManager[None]:
        if isinstance(self._synced, DistributedDataParallel):
            return self._synced.no_sync()
        return nullcontext()

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
            self.micro_batch_groups = (groups + 1) // 2
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
            self.optimizer.zero_grad()
        for part in [module] if module is not None else self.method.trained():
            for norm in group_batch_norms(part):
                norm.discard_pending()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class _Trunks(nn.Module):
    """All that is trained as one module, as DistributedDataParallel wants it: its forward pass is that of the trunks."""

    def __init__(self, method: Method, apply: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.trained = nn.ModuleList(method.trained())
        self._in_order, self._apply_trunk = tuple(method.trunks()), apply
        in_trunks = {id(parameter) for trunk in self._in_order for parameter in trunk.parameters()}
        self._heads = [p for p in self.trained.parameters() if p.requires_grad and id(p) not in in_trunks]

    def forward(self, images: list[Tensor], touches_heads: bool = False) -> list[Tensor]:
        """Outputs of each trunk. With touches_heads the heads, whose gradients are there already, count as used."""
        outputs = [self._apply_trunk(trunk, x) for trunk, x in zip(self._in_order, images, strict=True)]
        if touches_heads:
            outputs[0] = outputs[0] + sum(0.0 * parameter.reshape(-1)[0] for parameter in self._heads)
        return outputs


def _sums(loss: Loss) -> Tensor:
    """Loss, correct queries and cosines, (3,) float64."""
    return torch.stack([value.detach().double() for value in loss])


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
