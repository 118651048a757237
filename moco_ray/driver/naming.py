"""Names of runs that were given none: no two drivers take the same one."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import replace

from moco_ray.config import Config
from moco_ray.config.fields import shorten
from moco_ray.storage.checks import check_writable
from moco_ray.storage.storage import Storage, resolve_storage_options
from moco_ray.storage.uris import shown

_CLAIM = "name-claim-"
_MOST_BYTES = 255  # that a file system takes for a name
_MOST_ADDED = 40  # to a preset's name


def free_name(root: Storage, prefix: str) -> str:
    """Take a name that nobody has: PREFIX-YYYYMMDD-HHMMSS, with four more digits where that is taken.

    On a disk, making the folder is the claim. An object store has no folders: there a file in it is, until
    `forget_claims`; who finds another one beside the own takes another name, and so do all who came at once.

    Args:
        root: Folder of all runs.
        prefix: What names begin with.
    """
    name = base = f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}"
    while not _claim(root, name):
        name = f"{base}-{uuid.uuid4().hex[:4]}"
    return name


def take_name(config: Config) -> Config:
    """The configuration with a name that no other run has, where none was given.

    Raises:
        ValueError: The folder of all runs cannot be written to.
    """
    if config.run.name is not None or not config.data.uri:
        return config
    check_preset(config.preset)
    path = config.run.storage_path
    root = Storage.open(path, resolve_storage_options(path, config.run.storage_options))
    check_writable(root)
    return replace(config, run=replace(config.run, name=free_name(root, config.preset)))


def _claim(root: Storage, name: str) -> bool:
    if root.protocol == "file":
        os.makedirs(root.root, exist_ok=True)
        try:
            os.mkdir(root.join(name))
        except FileExistsError:
            return False
        return True
    claim = f"{_CLAIM}{uuid.uuid4().hex}"
    root.write_bytes(root.join(name, claim), b"")
    if [found for found, _, _ in root.list(root.join(name))] == [claim]:
        return True
    root.delete(root.join(name, claim))
    return False


def forget_claims(run: Storage) -> None:
    """Delete what claimed the name of a run, when its folder holds something else that stays."""
    if run.protocol == "file":
        return
    for name, _, _ in run.list(run.root):
        if name.startswith(_CLAIM):
            run.delete(run.join(name))


def check_preset(preset: str) -> None:
    """Refuse a preset's name that cannot begin the name of a run.

    Raises:
        ValueError: It cannot.
    """
    try:
        check_name(preset)
        check_name(f"{preset}{'x' * _MOST_ADDED}")
    except ValueError:
        raise ValueError(
            f"the preset's name {shorten(repr(preset))} cannot begin the name of a folder, as the names of its runs would; "
            'change "preset" in its JSON to a short name without slashes, or give a --run.name'
        ) from None


def check_name(name: str) -> None:
    """Refuse what is no name of a folder.

    Raises:
        ValueError: It is not.
    """
    if "/" in name or name in ("", ".", ".."):
        raise ValueError(f"run.name {shorten(repr(name))} must be the name of a folder, without slashes")
    if len(name.encode("utf-8", "surrogateescape")) > _MOST_BYTES:
        raise ValueError(f"run.name {shorten(repr(name))} is too long; use {_MOST_BYTES} bytes or fewer")
    if shown(name) != name:
        raise ValueError(f"run.name {shown(name)!r} holds what cannot be printed; use other characters")
