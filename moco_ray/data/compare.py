"""Two lists of images compared by what they hold, wherever that lies."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from moco_ray.config.paths import local_path
from moco_ray.data.manifest import Manifest
from moco_ray.storage.uris import base_of, is_local

_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a newer list differs from an older one. Names are relative to where each was listed."""

    new_rows: NDArray[np.int64]
    """For each row of the older list the row of the same name in the newer one, -1 for none."""
    removed: list[str]
    """Images that only the older list has."""
    added: list[str]
    """Images that only the newer list has."""
    resized: list[str]
    """Images whose files have another size."""
    relabelled: list[str]
    """Images with another label, or other labels or boxes."""

    @property
    def has_same_images(self) -> bool:
        """Whether both lists hold the same images, as far as names and sizes tell."""
        return not (self.removed or self.added or self.resized)

    def words(self) -> str:
        """What has changed, for people."""
        parts = {
            "removed": self.removed,
            "added": self.added,
            "changed in size": self.resized,
            "labelled otherwise": self.relabelled,
        }
        return ", ".join(f"{len(names):,} {what} ({_first(names)})" for what, names in parts.items() if names)


def compare(old: Manifest, old_uri: str, new: Manifest, new_uri: str) -> Comparison:
    """Compare two lists by names, sizes, labels and boxes.

    Args:
        old: The older list.
        old_uri: The data URI that it was made of.
        new: The newer list.
        new_uri: The data URI that it was made of.
    """
    are_single = all(m.kind == "parquet" and len(m.table["uri"].unique()) == 1 for m in (old, new))
    olds, news = (
        [_names(m, root, is_single=are_single) for root in _roots(m, uri)]
        for m, uri in ((old, old_uri), (new, new_uri))
    )
    pairs = [(a, b) for a in olds for b in news]
    old_names, new_names = max(pairs, key=lambda pair: len(set(pair[0]) & set(pair[1])))
    row_of = {name: row for row, name in enumerate(new_names)}
    new_rows = np.array([row_of.get(name, -1) for name in old_names], dtype=np.int64)
    both = np.flatnonzero(new_rows >= 0)
    was, now = (m.table["num_bytes"].to_numpy()[rows] for m, rows in ((old, both), (new, new_rows[both])))
    resized = both[(was >= 0) & (now >= 0) & (was != now)]
    was, now = (_label_names(m)[rows] for m, rows in ((old, both), (new, new_rows[both])))
    is_other = was != now
    if old.has_targets and new.has_targets:
        pairs_of_targets = zip(old.targets(both) or [], new.targets(new_rows[both]) or [], strict=True)
        is_other |= np.array([not np.array_equal(a, b, equal_nan=True) for a, b in pairs_of_targets], dtype=bool)
    known = set(old_names)
    return Comparison(
        new_rows=new_rows,
        removed=[old_names[row][0] for row in np.flatnonzero(new_rows < 0)],
        added=[name[0] for name in new_names if name not in known],
        resized=[old_names[row][0] for row in resized],
        relabelled=[old_names[row][0] for row in both[is_other]],
    )


def is_same_place(old: Manifest, old_uri: str, new_uri: str) -> bool:
    """Whether a data URI is another spelling of the one that a list was made of, and its images are still there."""
    if old_uri == new_uri and ("://" in new_uri or os.path.isabs(os.path.expanduser(new_uri))):
        return True
    if _place(old_uri) != _place(new_uri):
        return False
    first = str(old.table["uri"][0].as_py())
    return first.startswith(_folders(new_uri)) or not is_local(first) or os.path.exists(local_path(first))


def _place(uri: str) -> str:
    """A URI in one spelling."""
    return os.path.realpath(local_path(uri)) if is_local(uri) else base_of(uri).replace("s3a://", "s3://")


def _folders(uri: str) -> tuple[str, ...]:
    """What the URIs of images begin with that were listed from a folder, a list, or one file of this URI."""
    root = base_of(uri)
    return (f"{root}/", f"{root.rsplit('/', 1)[0]}/")


def _roots(manifest: Manifest, uri: str) -> list[str]:
    """Places that names may be relative to: the data URI, and the folder that all images have in common."""
    uris = manifest.table["uri"].to_pylist()
    folders = [uri.rpartition("/")[0].split("/") for uri in (min(uris), max(uris))]
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(*folders, strict=False))
    common = "/".join(part for part, _ in shared) + "/"
    roots = [folder for folder in _folders(uri) if common.startswith(folder)][:1]
    tail = f"/{os.path.normpath(uri)}/"
    if not roots and is_local(uri) and tail in common:  # relative to a folder that this process is not in
        roots = [common[: common.index(tail) + len(tail)]]
    return list(dict.fromkeys([*roots, common]))


def _names(manifest: Manifest, root: str, *, is_single: bool) -> list[tuple[str, int, int, int]]:
    """A name for each row: that of its file below the root, its place in there, and which one of equals it is.

    Where both lists are rows of a single Parquet file, that may have any name.
    """
    files = ["the file" if is_single else str(uri).removeprefix(root) for uri in manifest.table["uri"].to_pylist()]
    groups, rows = (manifest.table[name].to_pylist() for name in ("row_group", "row_in_group"))
    seen: Counter[tuple[str, int, int]] = Counter()
    names = []
    for place in zip(files, groups, rows, strict=True):
        names.append((*place, seen[place]))
        seen[place] += 1
    return names


def _label_names(manifest: Manifest) -> NDArray[np.object_]:
    classes = np.array([*manifest.classes, None], dtype=object)
    return classes[manifest.labels]


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
