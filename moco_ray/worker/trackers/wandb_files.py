"""What Weights & Biases has written of a run on a disk, where no server tells it.

The files are LevelDB's logs of protocol buffers: records of a checksum, a length and a type, in blocks of 32 KiB.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _FILE_HEADER = 32768, 7
_RECORD = struct.Struct("<IHB")
_WHOLE, _FIRST, _LAST = 1, 2, 4


def rows_on_disk(folder: str | Path, key: str) -> list[dict[str, Any]]:
    """What was logged to a run without a server, in all sessions."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for path in sorted(Path(folder).glob(f"wandb/offline-run-*-{key}/run-{key}.wandb")):
        for content in _records(path.read_bytes()):
            record = Record()
            record.ParseFromString(content)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a file; what a killed process has begun to write at its end is none."""
    place, parts = _FILE_HEADER, b""
    while place + _RECORD.size <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < _RECORD.size:
            place += left
            continue
        _, length, kind = _RECORD.unpack_from(content, place)
        place += _RECORD.size
        if kind == 0 or place + length > len(content):
            return
        part = content[place : place + length]
        parts = part if kind in (_WHOLE, _FIRST) else parts + part
        if kind in (_WHOLE, _LAST):
            yield parts
        place += length
