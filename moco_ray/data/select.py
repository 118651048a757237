"""Which of the images that were found are used: some classes, a share of the labels, all but those of a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moco_ray.core.hashing import hash64
from moco_ray.data.labels import amount, quoted
from moco_ray.data.manifest import Manifest
from moco_ray.data.overlap import identities
from moco_ray.data.text_tables import URI_COLUMNS, read_list
from moco_ray.storage.storage import Missing, Storage, StorageOptions
from moco_ray.storage.uris import shown

_FRACTION = 0x43  # keeps this draw apart from others of one seed


def keep_classes(manifest: Manifest, classes: Sequence[str], named: str) -> Manifest:
    """The images of some classes, which keep their order.

    Args:
        manifest: All images.
        classes: Names of those to keep.
        named: What the images are, for messages.

    Raises:
        ValueError: There is no such class.
    """
    if missing := [name for name in classes if name not in manifest.classes]:
        there = f"there are {quoted(manifest.classes)}" if manifest.classes else "no image there has a label"
        raise ValueError(f"data.classes: {named} has no class {quoted(missing)}; {there}")
    kept = tuple(name for name in manifest.classes if name in set(classes))
    return renumbered(manifest, kept).keep(np.isin(manifest.labels, [manifest.classes.index(name) for name in kept]))


def renumbered(manifest: Manifest, classes: tuple[str, ...]) -> Manifest:
    """The same images with the numbers that their classes have in `classes`; -1 for one that is not there."""
    number = {name: i for i, name in enumerate(classes)}
    table = np.array([*(number.get(name, -1) for name in manifest.classes), -1], dtype=np.int64)
    return manifest.with_labels(table[manifest.labels], classes)


def keep_labelled(manifest: Manifest) -> tuple[Manifest, str]:
    """The images that have a label, and what to say of the others."""
    if manifest.has_targets:
        has_label = np.array([not np.isnan(row).all() for row in manifest.targets(np.arange(len(manifest))) or []])
    else:
        has_label = manifest.labels >= 0
    count = int((~has_label).sum())
    if not count:
        return manifest, ""
    return manifest.keep(has_label), f"{amount(count, 'image')} without a label: left out"


def keep_fraction(manifest: Manifest, fraction: float, seed: int) -> Manifest:
    """A share of the images to train on, as many of each class as far as there are; those held out stay.

    A smaller share of the same seed is a part of a larger one.

    Args:
        manifest: All images; with several labels an image the share is drawn without a look at them.
        fraction: The share, (0, 1].
        seed: Of the choice.
    """
    rows = manifest.train_rows()
    if fraction >= 1:
        return manifest
    labels = manifest.labels[rows] if manifest.classes else np.zeros(len(rows), dtype=np.int64)
    drawn = rows[np.argsort(hash64(seed, _FRACTION, rows), kind="stable")]
    wanted = max(1, round(fraction * len(rows) / len(np.unique(labels))))
    of_class = manifest.labels[drawn] if manifest.classes else np.zeros(len(rows), dtype=np.int64)
    mask = np.ones(len(manifest), dtype=bool)
    mask[rows] = False
    for label in np.unique(labels):
        mask[drawn[of_class == label][:wanted]] = True
    return manifest.keep(mask)


def leave_out(manifest: Manifest, listed: frozenset[str], root: str) -> Manifest:
    """The images but for those that a list names, each by its URI or by its path below a folder.

    Args:
        manifest: All images.
        listed: What `read_excluded` has read.
        root: The folder that paths may begin at.
    """
    uris = manifest.table["uri"].to_pylist()
    wanted = set(identities(listed)) | set(identities(f"{root.rstrip('/')}/{name}" for name in listed))
    return manifest.keep(np.array([identity not in wanted for identity in identities(uris)], dtype=bool))


def read_excluded(uri: str, options: StorageOptions) -> frozenset[str]:
    """The images that a file names: one in each line, or those of a table's column of places.

    Raises:
        ValueError: There is no such file, or it is no text.
    """
    storage = Storage.open(uri, options)
    try:
        if uri.rsplit(".", 1)[-1].lower() in ("csv", "tsv", "jsonl"):
            table = read_list(storage, storage.root)
            column = next((name for name in table.columns if name.strip().casefold() in URI_COLUMNS), None)
            if column is None:
                raise ValueError(
                    f"data.exclude {uri} has no column uri; its columns are {', '.join(map(shown, table.columns))}"
                )
            kept = table.columns.get("keep", [])  # of a list of near-duplicates, those to keep are not to be left out
            is_kept = [str(cell).strip().casefold() == "yes" for cell in kept] or [False] * len(table.columns[column])
            cells = [str(cell) for cell, keeps in zip(table.columns[column], is_kept, strict=True) if not keeps]
        else:
            cells = storage.read_bytes(storage.root).decode("utf-8-sig").splitlines()
    except Missing:
        raise ValueError(f"data.exclude {uri}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"data.exclude {uri} is no text (byte {error.start} is no UTF-8)") from None
    return frozenset(cell.strip() for cell in cells if cell.strip())
