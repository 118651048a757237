"""File names of any bytes: listed, read, shown and written down, and the same again from what was written."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco_ray.config import Config, from_json, to_json
from moco_ray.config.data import DataConfig
from moco_ray.config.paths import as_uri, local_path, local_uri
from moco_ray.data.manifest import Manifest
from moco_ray.data.reading import read_rows
from moco_ray.data.sources import build_manifest
from moco_ray.storage.storage import Missing, StorageOptions, resolve_storage_options
from moco_ray.storage.uris import shown
from tests.s3 import S3Server, open_storage
from tests.web import web_server

ODD = [
    b"caf\xe9.png",
    b"\xff\xfe\x80.png",
    b"half \xc3.png",
    b"new\nline.png",
    b"tab\tand\rreturn.png",
    b"50% off #1?.png",
    b"a%2Fb%E9.png",
    b"*[0]?.png",
    b'it\'s "quoted".png',
    "🦊 fox.png".encode(),
    b"a::b.png",
    b"s3:x.png",
    b"~home.png",
    b" begins and ends .png",
    b"-dash.png",
    b"\\back\\slash.png",
    b"file-bytes:.png",
    b"n" * 251 + b".png",
]


def picture(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 99, 5)).save(content, "PNG")
    return content.getvalue()


def listed(uri: str) -> Manifest:
    return build_manifest(DataConfig(uri=uri), resolve_storage_options(uri, None))


def contents(manifest: Manifest) -> list[bytes]:
    options = resolve_storage_options(manifest.first_uri, None)
    return read_rows(manifest, np.arange(len(manifest)), options)


def test_names_of_any_bytes_are_listed_read_and_kept(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/odd \xe9"
    os.mkdir(folder)
    for number, name in enumerate(ODD):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(picture(number))
    manifest = listed(os.fsdecode(folder))
    assert sorted(contents(manifest)) == sorted(picture(number) for number in range(len(ODD)))
    storage = open_storage(str(tmp_path))
    manifest.write(storage, storage.join("manifest.parquet"))
    again = Manifest.read(storage, storage.join("manifest.parquet"))
    assert again.digest == manifest.digest and contents(again) == contents(manifest)
    for row in range(len(again)):
        again.uri(row).encode()  # can be printed, and written as JSON
        assert json.loads(json.dumps(again.uri(row))) == again.uri(row)


def test_only_names_that_are_no_utf8_are_written_otherwise(tmp_path: Path) -> None:
    for name in ODD:
        path = os.fsdecode(b"/data/" + name)
        uri = local_uri(path)
        assert local_path(uri) == path and local_uri(local_path(uri)) == uri
        assert (uri == path) == (name.decode("utf-8", "ignore").encode() == name)
    assert local_uri(os.fsdecode(b"/data/caf\xe9 1%.png")) == "file-bytes:///data/caf%E9%201%25.png"


def test_class_folders_of_any_bytes_are_classes(tmp_path: Path) -> None:
    for number, name in enumerate([b"caf\xe9", b"th\xc3\xa9"]):
        folder = os.fsencode(tmp_path) + b"/" + name
        os.mkdir(folder)
        Path(os.fsdecode(folder + b"/a.png")).write_bytes(picture(number))
    manifest = listed(str(tmp_path))
    assert sorted(manifest.classes) == sorted(["caf\\xe9", "thé"])
    assert contents(manifest) == [picture(0), picture(1)] and sorted(manifest.labels.tolist()) == [0, 1]


def test_a_message_about_such_a_name_can_be_printed(tmp_path: Path) -> None:
    storage = open_storage(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9"))
    for name, part in ((b"gone\xe8.png", "gone%E8.png"), (b"a\nb.png", "a%0Ab.png")):
        with pytest.raises(Missing, match=f"{part}: there is no such file") as caught:
            storage.read_bytes(storage.join(os.fsdecode(name)))
        assert str(caught.value).encode().isascii() and "\n" not in str(caught.value)
    assert shown("a\nb\x1b[0m") == "a\\nb\\x1b[0m"


def test_a_root_of_any_bytes_goes_through_the_configuration(tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9 %")
    config = Config(data=DataConfig(uri=odd))
    assert config.data.uri == f"file-bytes://{tmp_path}/%E9%20%25" and from_json(to_json(config)) == config
    storage = open_storage(config.data.uri)
    storage.write_bytes(storage.join("x"), b"1")
    assert storage.child("y").root == f"{odd}/y" and (Path(odd) / "x").exists()
    assert as_uri("data.uri", Path(odd)) == config.data.uri and as_uri("data.uri", "/data/ü") == "/data/ü"


S3_KEYS = [
    "two//slashes.png",
    "a/../b.png",
    "./dot.png",
    "new\nline.png",
    "50% #1?&=+.png",
    "%2F%E9.png",
    "*[0].png",
    "quote's \".png",
    "🦊.png",
    "a::b.png",
    "zip::x.png",
    " ends .png",
    "k" * 900 + ".png",
]


def test_keys_of_objects_are_taken_literally(s3: S3Server) -> None:
    folder = open_storage(f"s3://{s3.bucket}/odd")
    written = {}
    for number, key in enumerate(S3_KEYS):
        try:
            folder.write_bytes(folder.join(key), picture(number))
            written[key] = picture(number)
        except ValueError as error:  # keys that a server or a client refuses are refused in its words
            assert "odd/" in str(error)
    assert len(written) >= len(S3_KEYS) - 3
    for key, content in written.items():
        assert folder.read_bytes(folder.join(key)) == content, key
    manifest = listed(f"s3://{s3.bucket}/odd")
    assert set(contents(manifest)) <= set(written.values())
    assert len(manifest) >= len(written) - 2


def test_names_on_a_web_server_are_those_of_its_pages(tmp_path: Path) -> None:
    names = [name for name in ODD if b"?" not in name and b"#" not in name and b"\xff" not in name and len(name) < 200]
    for number, name in enumerate(names):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(picture(number))
    with web_server(tmp_path) as address:
        manifest = listed(address)
        assert set(contents(manifest)) <= {picture(number) for number in range(len(names))}
        assert len(manifest) >= len(names) - 3


def test_existing_manifests_mean_what_they_meant(tmp_path: Path) -> None:
    """Rows as they were written before names of any bytes could be: paths, and URLs of S3."""
    (tmp_path / "a%E9 ü.png").write_bytes(picture(1))
    manifest = listed(str(tmp_path))
    assert manifest.table["uri"].to_pylist() == [f"{tmp_path}/a%E9 ü.png"]
    assert contents(manifest) == [picture(1)]
    storage = open_storage(str(tmp_path))
    assert storage.path_of(manifest.first_uri) == manifest.first_uri
    assert StorageOptions({}) == resolve_storage_options(manifest.first_uri, None)
