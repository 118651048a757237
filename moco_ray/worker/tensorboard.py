"""TensorBoard files of a run, in its folder wherever that is."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from moco_ray.config.paths import BYTES, local_path
from moco_ray.report.sinks import TensorBoardSink
from moco_ray.storage.storage import StorageOptions
from moco_ray.storage.uris import is_local

_FOLDER = "tensorboard"


class Curves:
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
        return {f"{_FOLDER}/{path.name}": path.read_bytes() for path in self._folder.iterdir()}

    def close(self) -> None:
        """Flush and close."""
        self._sink.close()
