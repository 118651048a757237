"""Images that two lists share, however each writes their places."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from moco_ray.data.manifest import Manifest
from moco_ray.storage.uris import is_local, plain_path

_LEAST_LEFT = 0.1
Identity = str | tuple[str, int, int]


def identities(uris: Iterable[str]) -> list[str]:
    """What is equal for two URIs of one image; of local ones links are followed in folders, not in names of files."""
    real: dict[str, str] = {}

    def identity(uri: str) -> str:
        if not is_local(uri):
            return f"s3{uri[3:]}" if uri.startswith("s3a://") else uri
        folder, _, name = plain_path(uri).rpartition("/")
        if folder not in real:
            real[folder] = os.path.realpath(folder or "/")
        return f"{real[folder]}/{name}"

    return [identity(uri) for uri in uris]


def is_shared(uris: Sequence[str], others: Sequence[str]) -> NDArray[np.bool_]:
    """Which of some images are among others, both given by URI."""
    known = set(identities(others))
    return np.array([identity in known for identity in identities(uris)], dtype=bool)


def is_shared_row(manifest: Manifest, other: Manifest) -> NDArray[np.bool_]:
    """Which rows of a manifest are the images of another."""
    if manifest.kind != other.kind:
        return np.zeros(len(manifest), dtype=bool)
    known = set(_row_identities(other))
    return np.array([identity in known for identity in _row_identities(manifest)], dtype=bool)


def check_left(num_left: int, num_before: int, named: str, others: str) -> None:
    """Refuse to train on the rest, where most images are to be classified.

    Raises:
        ValueError: Less than a tenth is left.
    """
    if num_left < _LEAST_LEFT * num_before:
        raise ValueError(
            f"{num_before - num_left:,} of the {num_before:,} images of {named} are in {others}, too: training would see "
            "what is classified, and without them "
            f"{f'only {num_left:,} would be' if num_left else 'none is'} left to train on; name other images to classify"
        )


def _row_identities(manifest: Manifest) -> list[Identity]:
    places = identities(manifest.table["uri"].to_pylist())
    if manifest.kind == "files":
        return list(places)
    groups, rows = (manifest.table[name].to_pylist() for name in ("row_group", "row_in_group"))
    return list(zip(places, groups, rows, strict=True))
