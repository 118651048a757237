"""One training step of a detector, for any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from moco_ray.core import collectives
from moco_ray.core.batch import Batch
from moco_ray.core.detection.canvas import common_canvas, on_canvas
from moco_ray.core.detection.detector import Detector
from moco_ray.core.out_of_memory import ran_out_of_memory
from moco_ray.core.step_result import StepResult

LOSSES = ("train/loss", "train/objectness", "train/proposals", "train/classes", "train/boxes")
"""What a step measures: the sum of the four losses, and each."""


class DetectorLearner:
    """Trains a detector on batches of `images`, `size`, `boxes`, `labels` and `num_boxes`, as data/boxes/maker.py makes them.

    Attributes:
        detector: What is trained.
        optimizer: Over its parameters.
        scaler: Of the loss, in float16; it does nothing in others.
    """

    def __init__(
        self,
        detector: Detector,
        optimizer: torch.optim.Optimizer,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        autocast: torch.dtype | None = None,
        compresses_gradients: bool = False,
    ) -> None:
        """Begin. All ranks must call.

        Args:
            detector: On its device.
            optimizer: Over its parameters.
            mean: Of red, green and blue in 0..1.
            std: Of red, green and blue in 0..1.
            autocast: What to cast to; None: nothing.
            compresses_gradients: Whether they are sent in bfloat16.
        """
        self.detector, self.optimizer, self._autocast = detector, optimizer, autocast
        some = next(detector.parameters())
        self.device = some.device
        self._mean, self._std = (torch.tensor(value, dtype=some.dtype, device=some.device) for value in (mean, std))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=autocast == torch.float16)
        self._synced: torch.nn.Module = detector
        if collectives.world_size() > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self._synced = DistributedDataParallel(
                detector, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )
            if compresses_gradients:
                self._synced.register_comm_hook(None, bf16_compress_hook)

    def step(self, batch: Batch, *, lr: float) -> StepResult:
        """Train on one global batch. All ranks must call, each with its own groups."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        try:
            with no_search():
                losses = self.losses(batch)  # (4,) this rank's shares
                # DDP's mean over ranks takes the world size out again.
                self.scaler.scale(losses.sum() * collectives.world_size()).backward()
        except RuntimeError as error:
            if ran_out_of_memory(error):
                raise ValueError(_does_not_fit(batch, error)) from error
            raise
        self.scaler.step(self.optimizer)
        self.scaler.update()
        losses = losses.detach().double()
        measured = torch.cat([losses.sum().view(1), losses])
        return StepResult.over_ranks(measured, batch, dict.fromkeys(LOSSES, (1.0, 1)))

    def losses(self, batch: Batch) -> Tensor:
        """This rank's shares of the losses of the global batch, (4,): ranks add up. All ranks must call."""
        arrays = batch.arrays
        sizes = [(int(height), int(width)) for height, width in arrays["size"].tolist()]
        images = on_canvas(arrays["images"], sizes, common_canvas(sizes, self.device), self._mean, self._std)
        targets = [
            {"boxes": boxes[:count].to(images.dtype), "labels": labels[:count]}
            for boxes, labels, count in zip(
                arrays["boxes"], arrays["labels"], arrays["num_boxes"].tolist(), strict=True
            )
        ]
        positions = batch.step * batch.global_batch_size + batch.own_rows().numpy()
        with torch.autocast(self.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            sums, own = self._synced(images, sizes, targets, positions)
        counts = collectives.all_reduce_sum(own).clamp(min=1).repeat_interleave(2)  # (4,) over all ranks
        return sums / counts  # type: ignore[no-any-return]


@contextmanager
def no_search() -> Iterator[None]:
    """Choose convolutions on CUDA without trying them: the next images have other sizes."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _does_not_fit(batch: Batch, error: BaseException) -> str:
    return (
        f"this worker's {len(batch.rows)} images do not fit into memory, and BatchNorm over the global batch allows no "
        "micro-batches; use more workers, a smaller optim.global-batch-size, detection.min-px or detection.regions-per-image "
        f"({str(error).strip().partition(chr(10))[0]})"
    )
