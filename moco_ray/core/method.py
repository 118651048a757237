"""What a contrastive method is: the parts that the one training step of all methods calls."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from moco_ray.config.model import ModelConfig
from moco_ray.core.batch import Batch
from moco_ray.core.encoders import Encoder
from moco_ray.core.info_nce import Loss
from moco_ray.core.step_result import contrast_means

# A module on images (n, H, W, 3) uint8, which it standardises, or on features (n, d): `core/encoding.py`.
Encode = Callable[[nn.Module, Tensor], Tensor]


class Method(nn.Module):
    """The model of a method: all that training changes, but for the optimizer.

    Its state_dict is what a checkpoint holds. BatchNorm buffers apart, all of it is the same on all ranks.
    A method keeps no other state, draws randomness from (seed, step) alone, and looks at images only through its
    query modules and `encode`, which cut them into micro-batches where memory is short.

    Attributes:
        query_encoder: What is evaluated and exported.
        is_separable: Whether the loss of a query depends on no other query of the batch, so that each
            micro-batch has its own backward pass. Otherwise micro-batches go through the query modules twice: for
            the outputs that the loss of the whole batch needs, and again with the gradient of that loss.
        queries_per_image: Queries that the loss counts for each image of the batch.
    """

    query_encoder: Encoder
    is_separable: ClassVar[bool] = True
    queries_per_image: int = 1

    @abstractmethod
    def trained(self) -> list[nn.Module]:
        """Modules whose parameters learn by gradients, unless these are frozen."""

    @abstractmethod
    def query_modules(self) -> list[nn.Module]:
        """Modules that images go through with gradients, parts of `trained`."""

    @abstractmethod
    def query_images(self, batch: Batch) -> list[Tensor]:
        """What goes through each query module: (n, H, W, 3) uint8, as many for each, whole groups."""

    def update_key_encoder(self, progress: float) -> None:
        """Begin a step: the momentum update, where there is a key encoder that follows.

        Args:
            progress: Share of the run that is done, 0..1.
        """

    def encode_keys(self, batch: Batch, encode: Encode) -> Any:
        """Make the embeddings that `loss` compares queries with, without gradient. All ranks call."""
        return None

    @abstractmethod
    def loss(self, outputs: list[Tensor], keys: Any, part: slice, batch: Batch, encode: Encode) -> Loss:
        """Loss of this rank's queries, summed; the step divides by the images of the global batch.

        Args:
            outputs: Of each query module, (n, d), for the images of the part.
            keys: What `encode_keys` returned.
            part: Which of this rank's images. A method that is not separable always gets all of them, and only in
                such a method may ranks meet in a collective here.
            batch: This rank's part of the batch.
            encode: For heads.
        """

    def probe_loss(self, outputs: list[Tensor]) -> Tensor:
        """A loss that takes about as much memory as the real one and meets no other rank."""
        return sum((output.square().sum() for output in outputs[1:]), outputs[0].square().sum())

    def update_dictionary(self, batch: Batch, keys: Any, outputs: list[Tensor]) -> None:
        """End a step, after the optimizer: change what is no parameter, such as a queue. All ranks call.

        Args:
            batch: This rank's part of the batch.
            keys: What `encode_keys` returned.
            outputs: Of each query module, (n, d), for all of this rank's images, without gradient.
        """

    def means(self, images: int) -> dict[str, tuple[float, int]]:
        """For each of the three sums of `loss` over the global batch the name of its mean, a factor and a divisor."""
        return contrast_means(images, self.queries_per_image)

    def metrics(self, progress: float) -> dict[str, float]:
        """Values to log beside the loss."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a method is built for."""

    seed: int
    """Of the run."""
    model: ModelConfig
    """Backbone and heads."""
    num_images: int
    """Images that training sees."""

    def generator(self) -> torch.Generator:
        """A generator for the state that is no weight."""
        return torch.Generator().manual_seed(self.seed)
