"""Where metrics go: TensorBoard event files and lines of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

Metric = float | int | str | bool | None
"""What a metrics line may hold."""


def metrics_line(values: Mapping[str, Metric]) -> str:
    """Format metrics as one line of JSON, newline included, floats in full precision (they read back equal).

    Raises:
        ValueError: A value is NaN or infinite, which JSON cannot hold.
    """
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(
                f"metric {name} is {value}, which a metrics file cannot hold; "
                "a loss that diverged is often cured by a lower lr or a longer warm-up"
            )
    return json.dumps(dict(values), allow_nan=False) + "\n"


class TensorBoardSink:
    """Writes scalars by step to TensorBoard event files; used by rank 0."""

    def __init__(self, folder: str | Path, *, first_step: int = 0) -> None:
        """Open a new event file.

        Args:
            folder: Local directory; made if missing. Several runs of one training may share it.
            first_step: The step that this run starts from. TensorBoard hides what an earlier, interrupted run
                wrote from this step on.
        """
        self._writer = SummaryWriter(str(folder), purge_step=first_step, flush_secs=10)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the scalars of one step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=step)

    def close(self) -> None:
        """Flush and close; nothing may be written afterwards."""
        self._writer.close()
