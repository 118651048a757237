"""What a run keeps of a step whose loss is not finite, in its folder's debug/step_<N>/."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moco_ray.data.manifest import Manifest
from moco_ray.run_folder.names import MANIFEST
from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import without_secrets

FOUND = "found.txt"


def debug_folder(run: Storage, step: int) -> str:
    """Where what is kept of a step lies, for people."""
    return run.uri(_path(run, step))


def write_found(run: Storage, step: int, lines: Sequence[str]) -> None:
    """Write what was found out."""
    run.write_bytes(_path(run, step, FOUND), "\n".join([*lines, ""]).encode())


def write_batch(
    run: Storage, step: int, rank: int, arrays: Mapping[str, np.ndarray], rows: np.ndarray, says: Mapping[str, Any]
) -> None:
    """Write a rank's part of a batch as safetensors, and which images it is of as JSON.

    Args:
        run: The run's folder.
        step: The step that failed.
        rank: The rank.
        arrays: As the network was given them.
        rows: Rows of the run's manifest, one for each image.
        says: What else the JSON tells.
    """
    from safetensors.numpy import save  # only where a run fails

    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    run.write_bytes(_path(run, step, f"batch_rank_{rank}.safetensors"), content)
    images = [{"row": int(row), "uri": uri} for row, uri in zip(rows, _uris(run, rows), strict=True)]
    told = {**says, "images": images}
    run.write_bytes(_path(run, step, f"rows_rank_{rank}.json"), json.dumps(told, indent=1).encode())


def _path(run: Storage, step: int, *name: str) -> str:
    return run.join("debug", f"step_{step}", *name)


def _uris(run: Storage, rows: np.ndarray) -> list[str]:
    manifest = Manifest.read(run, run.join(MANIFEST))
    return [without_secrets(manifest.uri(int(row)), (run.options,)) for row in rows]
