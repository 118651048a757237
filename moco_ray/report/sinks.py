"""Where metrics go: TensorBoard event files and lines of JSON."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_BETWEEN_FILES_S = 60.0  # each attempt at a new file may leave an empty one

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
        self._folder = str(folder)
        self._writer: SummaryWriter | None = None
        self._next_file_s = -math.inf
        with contextlib.suppress(OSError):
            self._writer = self._new_writer(purge_step=first_step)

    def _new_writer(self, purge_step: int | None = None) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter  # here, because it takes half a second to import

        return SummaryWriter(self._folder, purge_step=purge_step, flush_secs=10)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the scalars of one step; on a full disk some are lost, and what comes later goes to a new file.

        The metrics files are the record of a run; a copy that cannot be written is no reason to stop it.
        """
        try:
            if self._writer is None and time.monotonic() >= self._next_file_s:
                self._next_file_s = time.monotonic() + _BETWEEN_FILES_S
                self._writer = self._new_writer()
            if self._writer is not None:
                for name, value in values.items():
                    self._writer.add_scalar(name, value, global_step=step)
        except OSError:  # a writer that failed once fails for good
            self._writer = None

    def close(self) -> None:
        """Flush and close; nothing may be written afterwards."""
        with contextlib.suppress(OSError):
            if self._writer is not None:
                self._writer.close()
