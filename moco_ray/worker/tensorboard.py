"""TensorBoard files of a run, in its folder wherever that is."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import socket
import struct
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moco_ray.config.paths import BYTES, local_path
from moco_ray.storage.storage import StorageOptions
from moco_ray.storage.uris import is_local

_FOLDER = "tensorboard"
_BETWEEN_FILES_S = 60.0  # each attempt at a new file may leave an empty one
_BETWEEN_FLUSHES_S = 10.0


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


class TensorBoardSink:
    """Writes scalars by step to TensorBoard event files; used by rank 0."""

    def __init__(self, folder: str | Path, *, first_step: int = 0) -> None:
        """Open a new event file.

        Args:
            folder: Local directory; made if missing. Several runs of one training may share it.
            first_step: The step that this run starts from. TensorBoard hides what an earlier, interrupted run
                wrote from this step on.
        """
        self._folder = Path(folder)
        self._file: _EventFile | None = None
        self._next_file_s = -math.inf
        with contextlib.suppress(OSError):
            self._file = _EventFile(self._folder)
            self._file.add(step=first_step, session_log={"status": "START"})

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the scalars of one step; on a full disk some are lost, and what comes later goes to a new file.

        The metrics files are the record of a run; a copy that cannot be written is no reason to stop it.
        """
        try:
            if self._file is None and time.monotonic() >= self._next_file_s:
                self._next_file_s = time.monotonic() + _BETWEEN_FILES_S
                self._file = _EventFile(self._folder)
            if self._file is not None:
                scalars = [{"tag": name, "simple_value": value} for name, value in values.items()]
                self._file.add(step=step, summary={"value": scalars})
        except OSError:  # what follows a record that is cut is not read
            self._file = None

    def close(self) -> None:
        """Flush and close; nothing may be written afterwards."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()


class _EventFile:
    """A file of TensorBoard's events. torch's writer does the same, and imports TensorFlow's stand-in and boto3 for it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._file = (folder / name).open("xb", buffering=0)
        self._pending = b""
        self._next_flush_s = -math.inf
        self.add(file_version="brain.Event:2")

    def add(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # here, for whoever imports this and writes nothing

        data = Event(wall_time=time.time(), **event).SerializeToString()
        length = struct.pack("<Q", len(data))
        self._pending += length + _checksum(length) + data + _checksum(data)
        if time.monotonic() >= self._next_flush_s:
            self._flush()

    def _flush(self) -> None:
        self._next_flush_s = time.monotonic() + _BETWEEN_FLUSHES_S
        pending, self._pending = self._pending, b""
        if self._file.write(pending) < len(pending):
            raise OSError("the disk is full")

    def close(self) -> None:
        self._flush()
        self._file.close()


def _checksum(data: bytes) -> bytes:
    """CRC-32C, rotated by 15 bits and offset, as records of TensorFlow have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _crc_table()[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@functools.cache
def _crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [entry >> 1 ^ (0x82F63B78 if entry & 1 else 0) for entry in table]
    return table
