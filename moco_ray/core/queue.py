"""The queue of keys: MoCo's dictionary."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Queue(nn.Module):
    """A first-in first-out dictionary of normalised keys (arXiv:1911.05722, Sec. 3.2).

    Identical on all ranks, because every rank enqueues the same gathered keys.

    Attributes:
        keys: (queue_size, dim), unit rows; random directions until real keys have replaced them.
        pointer: () int64, the slot that the next key goes to.
        num_enqueued: () int64, keys ever enqueued.
    """

    keys: Tensor
    pointer: Tensor
    num_enqueued: Tensor

    def __init__(self, queue_size: int, dim: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(queue_size, dim, generator=generator), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("num_enqueued", torch.zeros((), dtype=torch.int64))
        self._seen_fill = 0.0
        self.register_load_state_dict_post_hook(_forget_fill)  # type: ignore[no-untyped-call]

    @property
    def size(self) -> int:
        """Number of slots (the paper's K)."""
        return len(self.keys)

    @property
    def fill(self) -> float:
        """Fraction of the slots that hold real keys, 0..1; waits for the device until all do."""
        if self._seen_fill < 1.0:
            self._seen_fill = min(1.0, int(self.num_enqueued) / self.size)
        return self._seen_fill

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys.

        Differs: the reference asserts that queue_size is a multiple of the batch; this one wraps around.

        Args:
            keys: (N, dim) normalised, N <= queue_size.
        """
        assert len(keys) <= self.size
        slots = (self.pointer + torch.arange(len(keys), device=keys.device)) % self.size
        self.keys[slots] = keys.to(self.keys.dtype)
        self.pointer.copy_((self.pointer + len(keys)) % self.size)
        self.num_enqueued += len(keys)


def _forget_fill(queue: Queue, _: object) -> None:
    queue._seen_fill = 0.0
