"""What the configuration of a contrastive method is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self

if TYPE_CHECKING:
    from moco_ray.core.encoders import Encoder
    from moco_ray.core.method import Method, Setting


class MethodConfig(Protocol):
    """The configuration of a method, a frozen dataclass. `config/methods/__init__.py` lists them."""

    name: ClassVar[str]
    """As --method has it."""
    batch_norm: ClassVar[Literal["group", "global"]]
    """Whether BatchNorm sees a group of the batch (the GPUs of the papers) or all of it."""

    @property
    def temperature(self) -> float:
        """Temperature of the softmax (tau)."""

    @property
    def shuffles_keys(self) -> bool:
        """Whether key views change BatchNorm groups."""

    def check(self, global_batch_size: int) -> None:
        """Check the fields.

        Raises:
            ValueError: They are impossible, or contradict the batch.
        """

    def decide(self, *, num_images: int, global_batch_size: int, has_batch_norm: bool) -> Self:
        """Replace automatic values by what they come to for this data and network.

        Raises:
            ValueError: The fields contradict the data or the network.
        """

    def warning(self, num_images: int, global_batch_size: int) -> str | None:
        """What a user should know before training on so many images."""

    def num_entries(self, num_images: int) -> int:
        """Embeddings that the method keeps beside its weights."""

    def chance_loss(self, global_batch_size: int) -> float:
        """The loss of embeddings that know nothing."""

    def build(self, query_encoder: Encoder, setting: Setting) -> Method:
        """Build the method around a query encoder with plain BatchNorm."""
