"""All files of a folder with one question."""

from __future__ import annotations

import time

import fsspec
import numpy as np
import pytest

from moco_ray.data.manifest import Manifest, make_manifest
from moco_ray.storage.storage import Storage
from tests.s3 import open_storage


def _check(folder: Storage) -> None:
    assert folder.files(folder.root) == {}
    contents = {"a.txt": b"1", "deep/er/b[1]*?.bin": b"123", "deep/c": b""}
    for path, content in contents.items():
        folder.write_bytes(folder.join(*path.split("/")), content)
    beside = open_storage(folder.uri(f"{folder.root}-other"))
    beside.write_bytes(beside.join("d"), b"1")  # its name begins with the folder's
    found = folder.files(folder.root)
    assert {path: size for path, (size, _) in found.items()} == {path: len(data) for path, data in contents.items()}
    assert all(abs(when - time.time()) < 60 for _, when in found.values())
    assert {path: size for path, (size, _) in folder.files(folder.join("deep")).items()} == {"er/b[1]*?.bin": 3, "c": 0}


def test_all_files_are_listed_with_size_and_time(folder: Storage) -> None:
    _check(folder)


def test_all_files_of_another_file_system_too() -> None:
    fsspec.filesystem("memory").store.clear()
    _check(open_storage("memory://bucket/runs"))


def test_the_images_to_train_on_are_counted_without_reading_where_they_lie(folder: Storage) -> None:
    n = 50
    manifest = make_manifest(uris=[f"/{i}.png" for i in range(n)], labels=np.zeros(n, dtype=np.int64), classes=("a",))
    manifest.with_holdout(np.arange(n) % 7 == 0).write(folder, folder.join("manifest.parquet"))
    assert Manifest.count_train_rows(folder, folder.join("manifest.parquet")) == 42
    folder.write_bytes(folder.join("broken"), b"PAR1")
    with pytest.raises(ValueError, match="broken is damaged"):
        Manifest.count_train_rows(folder, folder.join("broken"))
