"""The files below a folder, and what of them is no picture: counted, named, never left out in silence."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field

from moco_ray.config.paths import local_path
from moco_ray.data.daemon_pool import DaemonPool
from moco_ray.data.formats.extensions import IMAGE_EXTENSIONS
from moco_ray.data.labels import counted, quoted
from moco_ray.storage.checks import check_bucket
from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import HTTP, base_of, is_local, shown

log = logging.getLogger(__name__)
_LISTING_THREADS = 16
_SAY_EVERY_S = 2.0
_JUNK_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin"})
_RUN_FILES = ({"config.json", "manifest.parquet"}, {"sweep.json", "manifest.parquet"})
_ARCHIVES = frozenset(".zip .tar .gz .tgz .bz2 .xz .zst .7z .rar".split())
_OTHER_PICTURES = frozenset(
    ".heic .heif .jxl .dcm .nii .raw .dng .cr2 .cr3 .nef .arw .orf .rw2 .psd .svg .exr .hdr .npy .npz .h5 .hdf5 .mp4 "
    ".mov .avi .mkv .tfrecord .lmdb .mat .pdf .eps .czi .svs .ndpi .lif".split()
)
_TABLES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})


@dataclass(frozen=True)
class File:
    """A file of a listing."""

    path: str
    """As the file system writes it."""
    num_bytes: int
    """-1: unknown."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What lies below a folder."""

    files: list[File]
    """By path, hidden ones left out."""
    results: list[str] = field(default_factory=list)
    """Folders of runs and sweeps, and others that the run itself uses: not looked into."""
    hidden: list[str] = field(default_factory=list)
    """Names of hidden folders and hidden pictures: not looked into."""

    def words(self) -> list[str]:
        """What was not looked into, in lines for people."""
        lines = []
        if self.results:
            lines.append(f"left out: {quoted(sorted(self.results))} (results of runs, or named by another flag)")
        if self.hidden:
            lines.append(f"left out: {len(self.hidden):,} hidden ({quoted(sorted(set(self.hidden)))})")
        return lines


def list_folder(storage: Storage, uri: str, leave_out: Collection[str]) -> Listing:
    """Every file below a folder, listed folder by folder on threads.

    Folders of runs and sweeps are left out, and those in `leave_out`: what a run draws must not become training data.

    Raises:
        ValueError: There is nothing, or the folder is a run's own.
    """
    if storage.is_web and any(sign in storage.root for sign in "?#"):
        raise ValueError(
            f"{shown(uri)} is a page of links, and what follows ? or # belongs to no file below it; name the folder without "
            "it, or a .csv or .parquet list of URLs"
        )
    listing = Listing(files=[])
    pages: dict[str, set[str]] = {}
    unwanted = {_absolute(path) for path in leave_out if path}
    last_s = time.monotonic()
    num_folders = 0
    with DaemonPool(_LISTING_THREADS) as pool:
        waiting: set[Future[tuple[str, list[tuple[str, int, bool]]]]] = {pool.submit(_list_one, storage, storage.root)}
        while waiting:
            done, waiting = wait(waiting, timeout=_SAY_EVERY_S, return_when=FIRST_COMPLETED)
            for future in done:
                folder, entries = future.result()
                num_folders += 1
                names = {name for name, _, _ in entries}
                if storage.is_web:
                    pages[folder.rstrip("/")] = names
                    _check_pages(uri, folder, pages)
                if any(files <= names for files in _RUN_FILES):
                    if folder == storage.root:
                        raise ValueError(
                            f"{uri} is the folder of a run or sweep, which holds its results; name your images"
                        )
                    listing.results.append(_below(storage, folder))
                    continue
                for path in dict.fromkeys(_add(listing, storage, folder, entries, unwanted)):
                    waiting.add(pool.submit(_list_one, storage, path))
            if time.monotonic() - last_s >= _SAY_EVERY_S:
                last_s = time.monotonic()
                log.info(
                    f"listed {len(listing.files):,} files in {num_folders:,} folders, {len(waiting):,} folders to go"
                )
    if not listing.files and not listing.results and not listing.hidden:
        if not storage.exists(storage.root):
            check_bucket(storage)
            raise ValueError(f"{uri} does not exist; check the path")
        if storage.protocol in HTTP:
            raise ValueError(
                f"{uri} links to no files: http has no folders, only pages that may list some; name a .csv or .parquet list "
                "of URLs instead"
            )
        raise ValueError(f"{uri} is empty: there is no file in it")
    listing.files.sort(key=lambda file: file.path)
    return listing


def _add(
    listing: Listing, storage: Storage, folder: str, entries: Sequence[tuple[str, int, bool]], unwanted: set[str]
) -> list[str]:
    """Put the files of one folder into the listing; returns the folders to look into."""
    folders = []
    for name, num_bytes, is_folder in entries:
        path = f"{folder.rstrip('/')}/{name}"
        if name.startswith(".") or (is_folder and name.lower() in _JUNK_FOLDERS):
            if is_folder or extension_of(name) in IMAGE_EXTENSIONS:
                listing.hidden.append(name)
        elif unwanted and (is_folder or extension_of(name) == ".parquet") and _absolute(storage.uri(path)) in unwanted:
            listing.results.append(_below(storage, path))
        elif is_folder:
            folders.append(path)
        else:
            listing.files.append(File(path, num_bytes))
    return folders


def _check_pages(uri: str, folder: str, pages: Mapping[str, set[str]]) -> None:
    """Refuse a server that answers whatever is below a page with the same links: there is no end to them.

    Raises:
        ValueError: A page has the same links as the two above it.
    """
    page = folder.rstrip("/")
    above = page.rpartition("/")[0]
    same = [pages.get(one) for one in (page, above, above.rpartition("/")[0])]
    if same[0] and same[0] == same[1] == same[2]:
        raise ValueError(
            f"{shown(uri)}: the server answers other addresses with the same links ({shown(folder)}, for one), without "
            "end; name a .csv or .parquet list of URLs instead"
        )


def _list_one(storage: Storage, folder: str) -> tuple[str, list[tuple[str, int, bool]]]:
    return folder, storage.list(folder)


def _absolute(uri: str) -> str:
    """The same for all ways to write a place."""
    return os.path.realpath(local_path(uri)) if is_local(uri) else base_of(uri).replace("s3a://", "s3://")


def same_place(uri: str, other: str) -> bool:
    """Whether two URIs are two ways to write one place."""
    return _absolute(uri) == _absolute(other)


def _below(storage: Storage, path: str) -> str:
    return path[len(storage.root.rstrip("/")) + 1 :]


def extension_of(path: str) -> str:
    """The extension in small letters, "" without one."""
    path = path.split("?", 1)[0] if "://" in path else path  # of a URL, without its query
    return os.path.splitext(path.rsplit("/", 1)[-1])[1].lower()


def left_out_words(files: Sequence[File]) -> list[str]:
    """What files are not read, by extension, and what a user may do about it; lines for people."""
    if not files:
        return []
    names = Counter(extension_of(file.path) for file in files)
    bare = [file.path.rsplit("/", 1)[-1] for file in files if not extension_of(file.path)]
    known = _OTHER_PICTURES | _ARCHIVES
    first = {name: count for name, count in names.items() if name in known}
    rest = {name: count for name, count in names.items() if name and name not in known}
    words = [counted(first, most=20)] if first else []
    words += [f"{len(bare):,} without extension ({quoted(bare)})"] if bare else []
    words += [counted(rest)] if rest else []
    advice = said_of_kinds(set(names))
    return [f"left out: {', '.join(words)}{'; ' if advice else ''}{'; '.join(advice)}"]


def said_of_kinds(extensions: set[str]) -> list[str]:
    """What a user may do about files with these extensions."""
    advice = []
    if archives := sorted(extensions & _ARCHIVES):
        advice.append(f"unpack {', '.join(archives)} first, or write the images as Parquet files of image bytes")
    if extensions & {".heic", ".heif"}:
        advice.append("convert HEIC pictures to JPEG (the package pillow-heif opens them)")
    if others := sorted(extensions & _OTHER_PICTURES - {".heic", ".heif"}):
        advice.append(f"convert {', '.join(others)} to PNG or JPEG if they are images to train on")
    if tables := sorted(extensions & _TABLES):
        advice.append(f"a {' or '.join(tables)} file is read where data.uri names it itself")
    return advice
