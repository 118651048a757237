"""The memory bank that MoCo is compared with: one stored key for each image of the data set.

Wu et al. 2018, arXiv:1805.01978; He et al. 2020, arXiv:1911.05722, Sec. 3.2 and Fig. 2b.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco_ray.config.methods.memory_bank import MemoryBankConfig
from moco_ray.core.batch import Batch, without_wait
from moco_ray.core.encoders import Encoder
from moco_ray.core.hashing import hash64
from moco_ray.core.info_nce import Loss, info_nce, info_nce_logits
from moco_ray.core.method import Encode, Method, Setting

_NEGATIVES = 0x4E  # keeps this draw apart from the others that are keyed by (seed, step)


class _Keys(NamedTuple):
    own: Tensor
    """(n, dim) entries of this rank's images."""
    negatives: Tensor
    """(K, dim) sampled entries, the same on all ranks."""
    is_own: Tensor
    """(n, K) whether a negative is the image's own entry."""


class MemoryBank(Method):
    """One encoder, and for every image the moving average of its embeddings, which serves as its key.

    Differs: Wu et al. draw negatives for each image; here one sample serves the whole batch ("the dictionary for each
    mini-batch is randomly sampled", arXiv:1911.05722, Sec. 3.2), and an image's own entry is left out of it.

    Attributes:
        bank: (num_images, dim), unit rows; random directions until an image was seen. The same on all ranks.
    """

    bank: Tensor

    def __init__(self, query_encoder: Encoder, config: MemoryBankConfig, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.query_encoder = query_encoder
        self._seed = setting.seed
        entries = torch.randn(setting.num_images, query_encoder.dim, generator=setting.generator())
        self.register_buffer("bank", F.normalize(entries, dim=1))

    def trained(self) -> list[nn.Module]:
        return [self.query_encoder]

    def query_modules(self) -> list[nn.Module]:
        return [self.query_encoder]

    def query_images(self, batch: Batch) -> list[Tensor]:
        return [batch.query]

    def encode_keys(self, batch: Batch, encode: Encode) -> _Keys:
        own = self._entries(batch)  # (n,)
        sample = without_wait(self.sample(batch.step), self.bank.device)  # (K,)
        return _Keys(self.bank[own], self.bank[sample], own[:, None] == sample)

    def loss(self, outputs: list[Tensor], keys: _Keys, part: slice, batch: Batch, encode: Encode) -> Loss:
        q = F.normalize(outputs[0], dim=1)  # (n, dim)
        logits = info_nce_logits(q, keys.own[part], keys.negatives, self.config.temperature)  # (n, 1 + K)
        logits[:, 1:] = logits[:, 1:].masked_fill(keys.is_own[part], -math.inf)
        labels = torch.zeros(len(q), dtype=torch.int64, device=q.device)
        return info_nce(logits, labels, self.config.temperature)

    def update_dictionary(self, batch: Batch, keys: _Keys, outputs: list[Tensor]) -> None:
        """Move the entries of the batch's images; of an image that is in it twice, the later place counts."""
        q = batch.gather(F.normalize(outputs[0], dim=1))  # (B, dim)
        entries = batch.gather(self._entries(batch))  # (B,)
        places = torch.arange(len(q), device=q.device)
        last = torch.where(entries[:, None] == entries, places, -1).amax(dim=1)  # (B,): so all writes of one agree
        m = self.config.bank_momentum
        self.bank[entries] = F.normalize(m * self.bank[entries] + (1 - m) * q[last], dim=1)

    def sample(self, step: int) -> Tensor:
        """Entries that are the negatives of a step, (K,) int64, drawn with replacement."""
        assert self.config.num_negatives is not None
        draws = hash64(self._seed, step, _NEGATIVES, np.arange(self.config.num_negatives))
        return torch.from_numpy((draws % np.uint64(len(self.bank))).astype(np.int64))

    def _entries(self, batch: Batch) -> Tensor:
        """Entries of this rank's images, (n,) int64."""
        return torch.from_numpy(batch.indices).to(self.bank.device, non_blocking=True)
