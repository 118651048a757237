"""What the configuration of a contrastive method is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

if TYPE_CHECKING:
    from moco_ray.core.encoders import Encoder
    from moco_ray.core.method import Method, Setting


@dataclass(frozen=True, kw_only=True)
class MethodConfig(ABC):
    """The configuration of a method. `config/methods/__init__.py` lists them.

    Each is a frozen dataclass of its own fields that overrides what is different for it. Fields of the names of
    properties here take their place.
    """

    name: ClassVar[str]
    """As --method has it."""
    batch_norm: ClassVar[Literal["group", "global"]] = "group"
    """Whether BatchNorm sees a group of the batch (the GPUs of the papers) or all of it."""

    @property
    def temperature(self) -> float | None:
        """Temperature of the softmax (tau); None for a loss without one."""
        return None

    @property
    def encoder_momentum(self) -> float | None:
        """Momentum of the key encoder (m); None without one that follows."""
        return None

    @property
    def shuffles_keys(self) -> bool:
        """Whether key views change BatchNorm groups."""
        return False

    def check(self, global_batch_size: int) -> None:
        """Check the fields.

        Raises:
            ValueError: They are impossible, or contradict the batch.
        """
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(f"method.temperature is {self.temperature}; use a number above 0")
        if self.encoder_momentum is not None and not 0 <= self.encoder_momentum <= 1:
            raise ValueError(f"method.encoder-momentum is {self.encoder_momentum}; use a number in [0, 1]")

    def resolve(self, *, num_images: int, global_batch_size: int, has_batch_norm: bool) -> Self:
        """Replace automatic values by what they come to for this data and network.

        Raises:
            ValueError: The fields contradict the data or the network.
        """
        return self

    def warning(self, num_images: int, global_batch_size: int) -> str | None:
        """What a user should know before training on so many images."""
        return None

    def num_entries(self, num_images: int) -> int:
        """Embeddings that the method keeps beside its weights."""
        return 0

    @abstractmethod
    def chance_loss(self, global_batch_size: int) -> float:
        """The loss of embeddings that know nothing."""

    def chance_key(self, global_batch_size: int) -> float | None:
        """Percent of queries that find their own key by chance; None for a method that looks for none."""
        return None

    def floor_loss(self, global_batch_size: int, dim: int) -> float | None:
        """The loss of embeddings of `dim` numbers that could not be better; None where that is not known."""
        return None

    @abstractmethod
    def build(self, query_encoder: Encoder, setting: Setting) -> Method:
        """Build the method around a query encoder with plain BatchNorm."""
