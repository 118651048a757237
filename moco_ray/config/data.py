"""The images of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images to train on."""

    uri: str = ""
    """A folder of images, a list of their URIs (.csv, .tsv, .jsonl or .parquet), or Parquet files with image bytes; a
    local path or any fsspec URL, such as s3://bucket/images. Of a folder with train/ and val/ or test/, train/."""
    storage_options: str | None = None
    """Access to uri: a JSON object of fsspec options or a file with one. None: the AWS environment or profile."""
    image_column: str | None = None
    """Column of image bytes in Parquet files, or of a list's images' places. None: found by its name or type."""
    label_column: str | None = None
    """Column of labels in a list or Parquet files. None: "label" or the like, if there is one that holds classes."""
    classes: tuple[str, ...] | None = None
    """The classes to use, as A,B,C; images of others are left out. None: all."""
    target_columns: tuple[str, ...] | None = None
    """Columns of a list, one for each of several labels that an image may have at once: 1 where it has it, 0 where it
    has not, and empty or -1 where nobody knows."""
    label_fraction: float = 1.0
    """Share of the labelled images to train on: as many of each class, as far as there are; chosen by run.seed."""
    exclude: str | None = None
    """A file of images to leave out: a URI or a path below uri in each line, or a .csv with a column uri, such as
    jobs/embed.py writes of near-duplicates."""
    max_bad_fraction: float = 0.02
    """The run stops when a larger share of all images than this cannot be had or does not decode."""
    max_pixels: int = 100_000_000
    """Images with more pixels are bad: a small file can hold a huge image."""
    relist: bool = False
    """Go on with a run on the images as they are in uri now: what has changed since they were listed is said and noted
    in lineage.jsonl, and training goes on from the newest checkpoint."""
    window_mb: float = 300.0
    """Encoded images of Parquet files that are shuffled together, about, in megabytes: more mixes sorted files better, and
    each task that reads takes as much memory. Less than a batch: one batch."""
