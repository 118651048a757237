"""Near-duplicates among embedded images: groups, a list of what to leave out, and a picture."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco_ray.driver.features.folder import EmbeddingFolder
from moco_ray.driver.features.progress import Progress
from moco_ray.driver.features.thumbnails import thumbnails
from moco_ray.evaluate.at_scale.search import mean_of, near_duplicates, similarities_to_kept
from moco_ray.evaluate.features import ImageSet

log = logging.getLogger(__name__)

CSV, EXCLUDE, PICTURE = "duplicates.csv", "exclude.txt", "duplicates.png"
_GROUPS_SHOWN, _COPIES_SHOWN = 8, 7
_MANY = 0.5


def write_duplicates(folder: EmbeddingFolder, images: ImageSet, dim: int, threshold: float) -> dict[str, Any]:
    """Find groups of images whose features are nearly the same, and write what there is to know of them.

    Features are compared without their mean, which is most of them: without that, all images are alike. Of each group the
    image with the most bytes is kept, or the first where these are not known.

    Args:
        folder: The embeddings.
        images: What they are of.
        dim: Numbers in a vector.
        threshold: Least cosine of two images that belong together; groups are chains of such.

    Returns:
        threshold, num_groups, num_left_out and largest_group.

    Raises:
        ValueError: The threshold is not in (0, 1].
    """
    check_threshold(threshold)
    center = mean_of(folder.read(), dim)
    progress = Progress("near-duplicates", len(images))
    sizes = [part.last - part.first for part in folder.parts]
    found = near_duplicates(folder.read, sizes, dim, threshold, center, progress.add)
    groups = [_kept_first(images, group) for group in found.of_several()]
    similarity = similarities_to_kept(folder.read, {int(row): int(g[0]) for g in groups for row in g}, center)
    _write_lists(folder, images, groups, similarity)
    num_out = sum(len(group) - 1 for group in groups)
    where = folder.storage.uri(folder.storage.root)
    log.info(
        f"{len(groups):,} groups of near-duplicates (similarity {threshold:g} or more); {CSV} in {where} lists them"
    )
    if groups:
        if images.manifest.kind == "files":
            log.info(f"--data.exclude {where}/{EXCLUDE} trains without {num_out:,} images, all but one of each group")
        else:
            log.warning(
                f"{EXCLUDE} names rows of Parquet files, which --data.exclude does not know: leave them out there"
            )
        folder.storage.write_bytes(folder.storage.join(PICTURE), _picture(images, groups, similarity))
    else:
        folder.storage.delete(folder.storage.join(PICTURE))  # of an earlier threshold
    if groups and len(groups[0]) > _MANY * len(images):
        log.warning(
            f"one group has {len(groups[0]):,} of the {len(images):,} images: to this encoder they are alike from one to the "
            "next; use a higher threshold"
        )
    largest = len(groups[0]) if groups else 0
    return {"threshold": threshold, "num_groups": len(groups), "num_left_out": num_out, "largest_group": largest}


def check_threshold(threshold: float) -> None:
    """Refuse what is no cosine of alike images.

    Raises:
        ValueError: It is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"--duplicates is {threshold:g}; use a similarity above 0 and up to 1, such as 0.98")


def _kept_first(images: ImageSet, group: NDArray[np.int64]) -> NDArray[np.int64]:
    """The group, led by the image with the most bytes."""
    sizes = images.manifest.table["num_bytes"].to_numpy()[group]
    kept = int(np.argmax(sizes))
    return np.concatenate([group[kept : kept + 1], np.delete(group, kept)])


def _write_lists(
    folder: EmbeddingFolder, images: ImageSet, groups: Sequence[NDArray[np.int64]], similarity: dict[int, float]
) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["group", "uri", "similarity", "keep"])
    left_out = []
    for number, group in enumerate(groups):
        for i, row in enumerate(group.tolist()):
            uri = images.manifest.uri(row)
            writer.writerow([number, uri, f"{similarity[row]:.4f}", "no" if i else "yes"])
            left_out += [uri] if i else []
    storage = folder.storage
    storage.write_bytes(storage.join(CSV), table.getvalue().encode(errors="surrogateescape"))
    storage.write_bytes(storage.join(EXCLUDE), "".join(f"{uri}\n" for uri in left_out).encode())


def _picture(images: ImageSet, groups: Sequence[NDArray[np.int64]], similarity: dict[int, float]) -> bytes:
    from moco_ray.report.pictures import neighbours_picture  # here, because matplotlib takes seconds to import

    shown = [group[: 1 + _COPIES_SHOWN].tolist() for group in groups[:_GROUPS_SHOWN]]
    pixels = thumbnails(images, sorted({row for group in shown for row in group}))
    shown = [kept for group in shown if len(kept := [row for row in group if row in pixels]) > 1]
    return neighbours_picture(
        [pixels[group[0]] for group in shown],
        [[pixels[row] for row in group[1:]] for group in shown],
        similarities=[[similarity[row] for row in group[1:]] for group in shown],
        heading=("Near-duplicates", "the image of each group that is kept, and others with their similarity to it"),
    )
