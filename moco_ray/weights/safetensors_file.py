"""Safetensors files as such: their header, their tensors, and what servers and Git give in place of a file."""

from __future__ import annotations

import json
import os

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from moco_ray.config.paths import as_uri
from moco_ray.storage.storage import Storage, resolve_storage_options

MOST_HEADER_BYTES = 100_000_000
"""Of a safetensors file."""


def read_own(
    path: str | os.PathLike[str], name: str, file_format: str, storage_options: str | None
) -> tuple[str, bytes, dict[str, str]]:
    """A file that a run has left: its URI, its content and its metadata.

    Args:
        path: The file, or the folder of the run; local or an fsspec URL.
        name: Of the file in that folder; its first part says what it holds.
        file_format: What its metadata say that it is.
        storage_options: Access to it: a JSON object of fsspec options or a file with one. None: the AWS environment.

    Raises:
        ValueError: There is no such file, or it is another.
    """
    uri = str(as_uri("path", path))
    storage = Storage.open(uri, resolve_storage_options(uri, storage_options))
    content = storage.read_bytes(storage.root if storage.is_file(storage.root) else storage.join(name))
    metadata = metadata_of(content)
    if metadata.get("format") != file_format:
        kind = name.partition(".")[0]
        raise ValueError(f"{uri} is no {kind} of moco_ray; name a {name} or the folder of a run that has one")
    return uri, content, metadata


def check_kind(content: bytes, path: str) -> None:
    """Refuse what servers and Git give in place of a file.

    Raises:
        ValueError: It is such a thing.
    """
    begin = content[:1000].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if begin.startswith((b"<!doctype html", b"<html", b"<?xml")):
        kind = "XML" if begin.startswith(b"<?xml") and b"<html" not in begin else "HTML"
        raise ValueError(
            f"{path} is an {kind} page, not weights: often one that asks to log in; check where it comes from"
        )
    if begin.startswith(b"version https://git-lfs.github.com/spec/"):
        raise ValueError(f"{path} is a Git LFS pointer, not weights: run git lfs pull in its repository")


def is_cut(content: bytes) -> bool:
    """Whether this is the beginning of a safetensors file, or nothing."""
    if len(content) < 9:
        return True
    length = int.from_bytes(content[:8], "little")
    if content[8:9] != b"{" or length > MOST_HEADER_BYTES:
        return False
    if len(content) < 8 + length:
        return True
    try:
        header = json.loads(content[8 : 8 + length])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return len(content) < 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError):
        return False


def metadata_of(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file; empty where there are none."""
    # It begins with the length of its header (8 bytes, little-endian) and the header, a JSON object.
    length = int.from_bytes(content[:8], "little")
    try:
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        return dict(metadata)
    except (ValueError, KeyError, TypeError):
        return {}


def tensors_of(content: bytes, path: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: It is cut or broken.
    """
    try:
        return dict(load_safetensors(content))
    except SafetensorError as error:
        raise ValueError(f"{path} is no complete safetensors file: {error}") from error
