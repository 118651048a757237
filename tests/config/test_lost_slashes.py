"""URLs as normpath and pathlib leave them, and local paths that look like them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moco_ray import load_encoder
from moco_ray.cli.pretrain import parse
from moco_ray.data.places import place_of
from moco_ray.storage.storage import Storage, StorageOptions, resolve_storage_options

NONE = StorageOptions({})
LOST = [
    ("s3:/bucket/runs", "s3:/bucket/runs has one slash; write s3://bucket/runs, or ./s3:/bucket/runs for a local path"),
    ("s3:bucket/runs", "s3:bucket/runs has no slashes; write s3://bucket/runs"),
    ("GS:/bucket", "write GS://bucket"),
    ("https:/host/list.csv", "write https://host/list.csv"),
    ("zip://a::s3:/bucket/x.zip", "s3:/bucket/x.zip has one slash"),
]


@pytest.mark.parametrize(("uri", "message"), LOST)
@pytest.mark.parametrize("flag", ["--data.uri", "--eval.uri", "--run.storage-path", "--model.init", "--preset"])
def test_a_url_that_has_lost_a_slash_is_no_local_path(flag: str, uri: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(["--preset", "smoke", flag, uri])


@pytest.mark.parametrize(("uri", "message"), LOST)
def test_nor_is_it_one_for_those_that_read_or_write(uri: str, message: str) -> None:
    for open_it in (load_encoder, lambda uri: resolve_storage_options(uri, None), lambda uri: Storage.open(uri, NONE)):
        with pytest.raises(ValueError, match=re.escape(message)):
            open_it(uri)


@pytest.mark.parametrize(
    "path", ["./s3:/bucket/runs", "/data/s3:/bucket", "C:/x", "notes:1/a", "a::b", "file:x", "s3://b/s3:/b", "~/s3:/b"]
)
def test_local_paths_with_colons_stay(path: str) -> None:
    assert parse(["--preset", "smoke", "--run.storage-path", path]).config.run.storage_path == path


@pytest.mark.parametrize("uri", ["file:/data/x", "file://localhost/data/x", "file:///data/x"])
def test_every_way_to_write_the_url_of_a_local_file_is_taken(uri: str) -> None:
    assert parse(["--preset", "smoke", "--data.uri", uri]).config.data.uri == "file:///data/x"
    assert Storage.open(uri, NONE).root == "/data/x"


def test_nor_does_a_list_name_one(tmp_path: Path) -> None:
    folder = Storage.open(str(tmp_path), NONE)
    with pytest.raises(ValueError, match="has one slash"):
        place_of("s3:/bucket/0.png", folder, str(tmp_path))
    assert place_of("./s3:/bucket/0.png", folder, str(tmp_path)) == f"{tmp_path}/s3:/bucket/0.png"
