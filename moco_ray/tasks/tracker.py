"""How a tracker of runs is reached, decided on the driver for whichever process is rank 0's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

TrackerName = Literal["mlflow", "wandb", "trackio"]
TITLES: Mapping[TrackerName, str] = {"mlflow": "MLflow", "wandb": "Weights & Biases", "trackio": "Trackio"}
"""What each calls itself."""


@dataclass(frozen=True, kw_only=True)
class TrackerAccess:
    """A tracker and its environment. That may hold keys, so it is never shown: it travels through the object store."""

    name: TrackerName
    """Which it is."""
    environment: Mapping[str, str] = field(repr=False)
    """Variables of the driver's environment that it reads, and where it keeps what stays on a disk."""

    @property
    def title(self) -> str:
        """What it calls itself."""
        return TITLES[self.name]
