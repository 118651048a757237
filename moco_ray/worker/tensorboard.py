"""TensorBoard files of a run, in its folder wherever that is."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from moco_ray.config.paths import BYTES, local_path
from moco_ray.storage.storage import StorageOptions
from moco_ray.storage.uris import is_local
from moco_ray.worker.follower import Follower

_FOLDER = "tensorboard"


class Curves(Follower):
    """Scalars for TensorBoard: written in place on a local disk, sent with each checkpoint to an object store."""

    def __init__(self, run_uri: str, options: StorageOptions, first_step: int) -> None:
        # TensorBoard writes to names that are UTF-8 only.
        self._is_local = is_local(run_uri) and not run_uri.startswith(BYTES)
        self._folder = (
            Path(local_path(run_uri)) / _FOLDER if self._is_local else Path(tempfile.mkdtemp(prefix="moco_ray_"))
        )
        self._sink = TensorBoardSink(self._folder, first_step=first_step)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add the scalars of a step."""
        self._sink.write(step, values)

    def files(self) -> dict[str, bytes]:
        """Path in the run's folder and content of what must be sent there; nothing on a local disk."""
        if self._is_local:
            return {}
        self._sink.flush()
        return {f"{_FOLDER}/{path.name}": path.read_bytes() for path in self._folder.iterdir()}

    def close(self, *, is_done: bool) -> None:
        """Flush and close."""
        self._sink.close()


if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
_BETWEEN_FILES_S = 60.0  # each attempt at a new file may leave an empty one


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

    def flush(self) -> None:
        """Have everything in the file."""
        try:
            if self._writer is not None:
                self._writer.flush()
        except OSError:
            self._writer = None

    def close(self) -> None:
        """Flush and close; nothing may be written afterwards."""
        with contextlib.suppress(OSError):
            if self._writer is not None:
                self._writer.close()
