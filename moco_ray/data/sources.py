"""What a data URI can be: a folder of images, a list of URIs, or Parquet files with image bytes."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from moco_ray.config.data import DataConfig
from moco_ray.data.folders import File, Listing, extension_of, left_out_words, list_folder, said_of_kinds
from moco_ray.data.formats.extensions import IMAGE_EXTENSIONS
from moco_ray.data.labels import amount, counted, quoted
from moco_ray.data.listed import Listed, Rows, make_listed, merge_rows
from moco_ray.data.manifest import Manifest
from moco_ray.data.metadata import read_metadata
from moco_ray.data.parquet import parquet_rows
from moco_ray.data.split_names import Role, has_train_and_other, role_of_file, without_doubles
from moco_ray.data.splits import Pictures, divide
from moco_ray.data.table_columns import place_column
from moco_ray.data.tables import places_of, rows_of_table
from moco_ray.data.text_tables import LIST_EXTENSIONS, read_list
from moco_ray.storage.checks import check_access
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.storage.uris import shown


def build_manifest(config: DataConfig, options: StorageOptions) -> Manifest:
    """List the images of a URI to train on; see `list_source`."""
    return list_source(config, options).train


def list_source(
    config: DataConfig, options: StorageOptions, *, leave_out: Collection[str] = (), chooses_test: bool = True
) -> Listed:
    """List the images of a URI, sorted by URI and row, so that the result does not depend on the listing.

    Args:
        config: Where the images are.
        options: Access to them.
        leave_out: Folders that are no part of it: results of runs, images to evaluate on.
        chooses_test: Whether a val or test part is to be classified; else other images are.

    Raises:
        ValueError: The URI cannot be read, or there are no images.
    """
    check_access(config.uri, options)
    storage = Storage.open(config.uri, options)
    if (
        storage.protocol == "file"
        and os.path.exists(storage.root)
        and not (os.path.isfile(storage.root) or os.path.isdir(storage.root))
    ):
        raise ValueError(
            f"{config.uri} is neither a file nor a folder; name a folder of images, a list or Parquet files"
        )
    if storage.is_file(storage.root):
        rows = _from_file(config, storage)
    else:
        rows = _from_folder(config, storage, list_folder(storage, config.uri, leave_out))
    if config.target_columns is not None and not rows.target_names:
        raise ValueError(
            f"data.target-columns {', '.join(config.target_columns)}: {config.uri} is no list of images with such columns; name "
            "one (.csv, .tsv or .jsonl) with --data.uri"
        )
    return make_listed(rows, is_label_named=config.label_column is not None, chooses_test=chooses_test)


def _from_file(config: DataConfig, storage: Storage) -> Rows:
    extension = extension_of(storage.root)
    if extension in LIST_EXTENSIONS:
        folder = storage.root.rsplit("/", 1)[0]
        return rows_of_table(
            config.uri,
            read_list(storage, storage.root),
            storage,
            folder,
            config.label_column,
            wanted_place=config.image_column,
            targets=config.target_columns,
        )
    if extension == ".parquet":
        return _from_parquet(config, storage, [storage.root])
    advice = said_of_kinds({extension})
    raise ValueError(
        f"{config.uri} is a file; use a folder of images, a list ({', '.join(LIST_EXTENSIONS)} or .parquet) or Parquet files"
        + "".join(f"; {line}" for line in advice)
    )


def _from_folder(config: DataConfig, storage: Storage, listing: Listing) -> Rows:
    images = [file for file in listing.files if extension_of(file.path) in IMAGE_EXTENSIONS]
    others = [file for file in listing.files if extension_of(file.path) not in IMAGE_EXTENSIONS]
    there = {storage.uri(file.path) for file in images} if _may_have_splits(storage, others) else set()
    lists, unused = _lists_of_splits(config, storage, others, there)
    parquet = [file.path for file in others if extension_of(file.path) == ".parquet"]
    if lists or (not images and not parquet and len(lists := _lists(storage, others)) == 1):
        rows = _from_lists(config, storage, lists)
        used = [file for file, _ in lists]
        if unnamed := len(there - set(rows.uris)):
            rows.notes.append(f"left out: {amount(unnamed, 'picture')} that these lists do not name")
    elif images:
        rows, used = _from_images(config, storage, images, others)
    elif parquet:
        rows = _from_parquet(config, storage, parquet)
        used = [file for file in others if extension_of(file.path) == ".parquet"]
    else:
        raise ValueError(_without_images(config, storage, listing))
    known = {file.path for file in used}
    rows.notes.extend([*unused, *listing.words(), *left_out_words([file for file in others if file.path not in known])])
    return rows


def _without_images(config: DataConfig, storage: Storage, listing: Listing) -> str:
    seen = Counter(extension_of(file.path) or "no extension" for file in listing.files)
    said = [*listing.words(), *said_of_kinds(set(seen))]
    if lists := _lists(storage, listing.files):
        said.append(f"name one of its lists: {config.uri.rstrip('/')}/{lists[0][0].path.rsplit('/', 1)[-1]}")
    return (
        f"{config.uri} holds no image: {len(listing.files)} files were seen ({counted(seen)}); images end in .jpg, .png, "
        ".webp, .tif and so on" + "".join(f"; {line}" for line in said)
    )


def _lists(storage: Storage, files: Sequence[File]) -> list[tuple[File, Role | None]]:
    """The lists that lie directly in the folder, and what their names say they are for."""
    here = [file for file in files if file.path.rsplit("/", 1)[0] == storage.root.rstrip("/")]
    tables = [file for file in here if extension_of(file.path) in LIST_EXTENSIONS]
    names = [file.path.rsplit("/", 1)[-1] for file in tables]
    roles = without_doubles({name: role_of_file(name) for name in names})
    return [(file, roles[name]) for file, name in zip(tables, names, strict=True)]


def _may_have_splits(storage: Storage, files: Sequence[File]) -> bool:
    return any(role == "train" for _, role in _lists(storage, files))


def _lists_of_splits(
    config: DataConfig, storage: Storage, files: Sequence[File], there: Collection[str]
) -> tuple[list[tuple[File, Role | None]], list[str]]:
    """Lists such as train.csv and val.csv, if they name images: of those that are there, where there are any.

    Returns:
        The lists, and in lines for people why others of such names are not used.
    """
    usable: list[tuple[File, Role | None]] = []
    unused = []
    for file, role in _lists(storage, files):
        if role is None or not _may_have_splits(storage, files):
            continue
        try:
            table, uri = read_list(storage, file.path), storage.uri(file.path)
            column = place_column(uri, table.names(), config.image_column, table.first_cells)
            places = places_of(uri, column, table.columns[column], storage, storage.root, table.lines) if column else []
        except ValueError as error:
            if not there:
                raise
            unused.append(f"warning: a list is not used: {error}")  # the images beside it need none
            continue
        if column is not None and (not there or any(place in there for place in places)):
            usable.append((file, role))
        else:
            why = "names none of the pictures there" if column else f"has no uri column ({', '.join(table.columns)})"
            unused.append(f"{shown(file.path.rsplit('/', 1)[-1])} is not used: it {why}")
    return (usable if any(role == "train" for _, role in usable) else []), unused


def _from_lists(config: DataConfig, storage: Storage, lists: Sequence[tuple[File, Role | None]]) -> Rows:
    """The images of several lists."""
    parts, names = [], defaultdict(list)
    for file, role in lists:
        table, uri = read_list(storage, file.path), storage.uri(file.path)
        rows = rows_of_table(
            uri,
            table,
            storage,
            storage.root,
            config.label_column,
            role,
            wanted_place=config.image_column,
            targets=config.target_columns,
        )
        parts.append(rows)
        if role is not None:
            names[role].append(uri.rsplit("/", 1)[-1])
    return replace(merge_rows(parts), names=dict(names))


def _from_images(
    config: DataConfig, storage: Storage, images: Sequence[File], others: Sequence[File]
) -> tuple[Rows, list[File]]:
    """Pictures with the class folders that they are in, or the labels of metadata.csv; and the files that were used."""
    root = len(storage.root.rstrip("/")) + 1
    shared: dict[str, str] = {}  # one string for each folder, not one for each of its pictures
    folders = [shared.setdefault(folder := shown(file.path[root:].rpartition("/")[0]), folder) for file in images]
    pictures: dict[str, Pictures] = defaultdict(Pictures)
    for folder, file in zip(folders, images, strict=True):
        pictures[folder].add(file.path.rsplit("/", 1)[-1])
    division = divide(pictures)
    kept = [(file, folder) for file, folder in zip(images, folders, strict=True) if folder in division.roles]
    uris = [storage.uri(file.path) for file, _ in kept]
    labels: list[Any] = [division.labels[folder] for _, folder in kept]
    roles: list[Role | None] = [division.roles[folder] for _, folder in kept]
    names, notes = division.names, list(division.notes)
    metadata = read_metadata(config, storage, others, division.roles, set(uris))
    if metadata.column:
        labels = [metadata.labels.get(uri) for uri in uris]
        notes.append(f"labels come from {quoted(metadata.used)}")
    elif config.label_column is not None:
        raise ValueError(
            f"data.label-column {config.label_column!r}: {config.uri} is a folder of images without a "
            "metadata.csv that gives labels; its folders are the classes. Name a list or Parquet files instead, or drop the flag"
            + "".join(f"; {why}" for why in metadata.unused)
        )
    if has_train_and_other(metadata.roles.values()):
        without: list[Role | None] = roles if has_train_and_other(roles) else ["other"] * len(roles)
        roles = [metadata.roles.get(uri, role) for uri, role in zip(uris, without, strict=True)]
        names = {}
        notes.append(f"splits come from {quoted(metadata.used)}")
    elif not has_train_and_other(roles):
        notes += metadata.unclear
    rows = Rows(
        uris=uris,
        labels=labels,
        label_name=metadata.column,
        roles=roles,
        names=names,
        reasons={} if metadata.column else division.reasons,
        num_bytes=[file.num_bytes for file, _ in kept],
        notes=notes + metadata.unused,
    )
    return rows, metadata.files


def _from_parquet(config: DataConfig, storage: Storage, paths: Sequence[str]) -> Rows:
    return parquet_rows(
        config.uri,
        storage,
        paths,
        image_column=config.image_column,
        wanted_label=config.label_column,
        window_mb=config.window_mb,
    )
