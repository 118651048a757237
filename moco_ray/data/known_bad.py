"""Bad images that a look at the listing already tells, and the words for too many of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from moco_ray.data.daemon_pool import DaemonPool
from moco_ray.data.manifest import Manifest
from moco_ray.storage import local as local_files
from moco_ray.storage.uris import is_local, plain_path

log = logging.getLogger(__name__)
_LOOKED_AT = 100_000  # local files: some seconds
_THREADS, _SHARE = 16, 1000
_SHOWN = 20
_LONGEST_NAME, _SHORT_NAME = 300, 60


def known_bad(manifest: Manifest) -> dict[int, str]:
    """Rows whose files cannot be read, as far as it can be told without reading, with the reason.

    Of local files the first 100,000 are looked at, and all that seemed empty when they were listed; of files elsewhere
    it is known which are empty. Rows of Parquet files are not looked at.
    """
    if manifest.kind != "files" or not len(manifest):
        return {}
    sizes = manifest.table["num_bytes"].to_numpy()
    if not is_local(manifest.first_uri):
        return {int(row): "empty file" for row in np.flatnonzero(sizes == 0)}
    rows = np.union1d(np.arange(min(len(sizes), _LOOKED_AT)), np.flatnonzero(sizes == 0))

    def look(start: int) -> list[tuple[int, str | None]]:
        share = rows[start : start + _SHARE]
        paths = [plain_path(uri) for uri in manifest.table["uri"].take(share).to_pylist()]
        return [(int(row), local_files.why_unreadable(path)) for row, path in zip(share, paths, strict=True)]

    with DaemonPool(_THREADS) as pool:
        found = [item for share in pool.map(look, range(0, len(rows), _SHARE)) for item in share]
    return {row: reason for row, reason in found if reason is not None}


def say_known_bad(manifest: Manifest, max_bad_fraction: float | None) -> None:
    """Say which images are bad already, all at once.

    Args:
        manifest: The images.
        max_bad_fraction: Share of the training images that may be bad; None: any.

    Raises:
        ValueError: More are.
    """
    bad = known_bad(manifest)
    if not bad:
        return
    train = np.intersect1d(list(bad), manifest.train_rows())
    num_train = len(manifest.train_rows())
    if max_bad_fraction is not None and len(train) > max_bad_fraction * num_train:
        raise ValueError(
            too_many_bad(
                [(manifest.uri(int(row)), bad[int(row)]) for row in train],
                num_train,
                max_bad_fraction,
                advice="mend or remove them",
            )
        )
    log.warning(
        f"{len(bad):,} of {len(manifest):,} images are bad already, before any is read; others stand in for them"
    )
    for line in bad_lines([(manifest.uri(row), bad[row]) for row in sorted(bad)]):
        log.info(line)


def too_many_bad(bad: Sequence[tuple[str, str]], num_images: int, max_bad_fraction: float, *, advice: str) -> str:
    """Words for (name, reason) of more bad images than the user accepts.

    Args:
        bad: The bad images.
        num_images: Of so many.
        max_bad_fraction: The limit.
        advice: What to do about them, other than raising the limit.
    """
    return (
        f"{len(bad):,} of {num_images:,} images are bad, more than data.max-bad-fraction {max_bad_fraction:g}; {advice}, or "
        "raise the limit. The first are\n" + "\n".join(bad_lines(bad))
    )


def bad_lines(bad: Sequence[tuple[str, str]]) -> list[str]:
    """A line for each of the first bad images, and one for the rest; what is too long for a name is cut."""
    lines = [f"  {_named(name)}: {reason}" for name, reason in bad[:_SHOWN]]
    return lines + ([f"  and {len(bad) - _SHOWN:,} more"] if len(bad) > _SHOWN else [])


def _named(name: str) -> str:
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_SHORT_NAME]}… ({len(name):,} characters, which may be no place of an image)"
