"""Images behind every kind of URL: http, archives, caches, other file systems, and what is refused."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from moco_ray.config.data import DataConfig
from moco_ray.data.manifest import Manifest
from moco_ray.data.reading import read_rows
from moco_ray.data.sources import build_manifest
from moco_ray.storage.checks import check_writable
from moco_ray.storage.storage import ReadError, Storage, StorageOptions, resolve_storage_options
from moco_ray.storage.uris import split_uri
from tests.s3 import S3Server, open_storage
from tests.web import web_server

NAMES = ["a/1.png", "a/with space.png", "b/ünï#1.png", "b/100%.png", "b/a::b?.png"]


def picture(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (9, 7), (number, 2 * number, 40)).save(content, "PNG")
    return content.getvalue()


PICTURES = {name: picture(number) for number, name in enumerate(NAMES)}


def write_folder(folder: Path) -> Path:
    for name, content in PICTURES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder of pictures and the address that serves it."""
    folder = write_folder(tmp_path / "site")
    with web_server(folder) as address:
        yield folder, address


def listed(uri: str, options: str | None = None) -> Manifest:
    config = DataConfig(uri=uri, storage_options=options)
    return build_manifest(config, resolve_storage_options(uri, options))


def contents(manifest: Manifest, options: str | None = None) -> list[bytes]:
    """What every row holds, with access as a run resolves it."""
    access = resolve_storage_options(str(manifest.table["uri"][0].as_py()), options)
    return read_rows(manifest, np.arange(len(manifest)), access)


def assert_all(manifest: Manifest, options: str | None = None, num_classes: int = 2) -> None:
    assert sorted(contents(manifest, options)) == sorted(PICTURES.values())
    assert len(manifest.classes) == num_classes


def test_a_page_that_lists_files_is_a_folder(site: tuple[Path, str]) -> None:
    _, address = site
    assert_all(listed(f"{address}/"))
    assert_all(listed(address))
    assert len(listed(f"{address}/a")) == 2


@pytest.mark.parametrize("column", ["uri", "url"])
def test_a_list_behind_http_names_files_and_urls(site: tuple[Path, str], column: str) -> None:
    folder, address = site
    (folder / "lists").mkdir()
    lines = [
        f"{address}/a/1.png",
        "../a/with%20space.png",
        "../b/ünï#1.png",
        "/b/100%.png",
        "../b/a::b?.png",
    ]
    (folder / "lists" / "list.csv").write_text("\n".join([column, *lines]), encoding="utf-8")
    assert_all(listed(f"{address}/lists/list.csv"), num_classes=0)
    assert_all(listed(f"{address}/lists/list.csv?signature=1%2F2"), num_classes=0)


def test_parquet_behind_http_is_read_from_servers_without_ranges(site: tuple[Path, str]) -> None:
    folder, address = site
    table = pa.table({"image": list(PICTURES.values()), "label": list("aabbb")})
    pq.write_table(table, folder / "images.parquet", row_group_size=2)
    assert_all(listed(f"{address}/images.parquet"))
    names = pa.table({"uri": [f"{address}/a/1.png", "a/with space.png"]})
    pq.write_table(names, folder / "names.parquet")
    assert contents(listed(f"{address}/names.parquet")) == [PICTURES[name] for name in NAMES[:2]]


def pack(kind: str, mode: str = "w") -> bytes:
    content = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, picture in PICTURES.items():
                archive.writestr(f"pictures/{name}", picture)
    else:
        with tarfile.open(fileobj=content, mode=mode) as packed:  # type: ignore[call-overload]
            for name, picture in PICTURES.items():
                info = tarfile.TarInfo(f"pictures/{name}")
                info.size = len(picture)
                packed.addfile(info, io.BytesIO(picture))
    return content.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_are_folders_wherever_they_lie(
    kind: str, site: tuple[Path, str], s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = site
    (folder / f"all.{kind}").write_bytes(pack(kind))
    bucket = open_storage(f"s3://{s3.bucket}/packed")
    bucket.write_bytes(bucket.join(f"all.{kind}"), pack(kind))
    monkeypatch.chdir(folder)
    for place in (
        f"all.{kind}",
        f"{folder}/all.{kind}",
        f"{address}/all.{kind}",
        f"s3://{s3.bucket}/packed/all.{kind}",
    ):
        assert_all(listed(f"{kind}://pictures::{place}"))
        assert len(listed(f"{kind}://pictures/b/::{place}")) == 3
    for root in (f"{kind}://::all.{kind}", f"{kind}://*::all.{kind}", f"{kind}::all.{kind}"):
        assert len(listed(root)) == 5
    assert_all(listed(f"{kind}://pictures::simplecache::s3://{s3.bucket}/packed/all.{kind}"))


def test_a_list_in_an_archive_names_its_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("deep/list.csv", "uri\nimg/1.png\nimg/a::b.png\n")
        archive.writestr("deep/img/1.png", picture(1))
        archive.writestr("deep/img/a::b.png", picture(2))
    manifest = listed(f"zip://deep/list.csv::{tmp_path}/x.zip")
    assert contents(manifest) == [picture(1), picture(2)]
    assert manifest.uri(1) == f"zip://deep/img/a::b.png::{tmp_path}/x.zip"
    (tmp_path / "list.csv").write_text(f"uri\nzip://deep/img/1.png::{tmp_path}/x.zip\n")
    assert contents(listed(f"{tmp_path}/list.csv")) == [picture(1)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pack("tar", "w:gz"), r"packed as a whole \(gzip\).*unpack it"),
        (lambda: b"no archive" * 100, "is no tar archive"),
    ],
)
def test_archives_that_cannot_be_read_at_random_are_refused(make: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(make())  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        listed(f"tar://::{tmp_path}/x.tar")


def test_a_chain_without_a_beginning_is_refused() -> None:
    for uri in ("zip://images", "simplecache://x", "tar://"):
        with pytest.raises(ValueError, match="does not say where"):
            listed(uri)


@pytest.mark.parametrize("cache", ["simplecache", "filecache"])
def test_caches_keep_copies_where_their_options_say(
    cache: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_storage(f"s3://{s3.bucket}/cached")
    for name, content in PICTURES.items():
        folder.write_bytes(folder.join(*name.split("/")), content)
    options = json.dumps({cache: {"cache_storage": str(tmp_path / "copies")}})
    manifest = listed(f"{cache}::s3://{s3.bucket}/cached", options)
    assert_all(manifest, options)
    folder.delete(folder.root)
    assert_all(manifest, options)
    assert len(list((tmp_path / "copies").iterdir())) >= 5


def test_memory_and_file_urls_work() -> None:
    fs = fsspec.filesystem("memory")
    for name, content in PICTURES.items():
        fs.pipe_file(f"/pictures/{name}", content)
    assert_all(listed("memory://pictures"))
    assert_all(listed("memory:///pictures/"))
    target = open_storage("memory://runs/x")
    check_writable(target)
    target.write_bytes(target.join("deep", "file"), b"1")
    assert target.read_bytes(target.join("deep", "file")) == b"1"
    assert [name for name, _, _ in target.list(target.root)] == ["deep"]
    target.delete(target.root)
    assert not target.exists(target.root)


def test_file_urls_are_paths(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f")
    for uri in (f"file://{folder}", f"local://{folder}/", str(folder)):
        manifest = listed(uri)
        assert_all(manifest)
        assert manifest.uri(0) == f"{folder}/a/1.png"
    (tmp_path / "list.csv").write_text(f"uri\nfile://{folder}/a/1.png\n")
    assert contents(listed(str(tmp_path / "list.csv"))) == [PICTURES["a/1.png"]]


@pytest.mark.parametrize("uri", ["nosuch://a/b", "gopher://x/y", "reference://x", "dir://x"])
def test_protocols_that_do_not_work_are_refused_with_those_that_do(uri: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be opened.*These work here.*http.*memory.*s3.*zip"):
        listed(uri)


def test_results_cannot_go_where_nothing_is_written(site: tuple[Path, str]) -> None:
    _, address = site
    with pytest.raises(ValueError, match="http:// can only be read"):
        check_writable(open_storage(f"{address}/runs"))


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_mistakes_in_an_address_are_named_within_seconds(site: tuple[Path, str]) -> None:
    folder, address = site
    (folder / "empty").mkdir()
    cases = [
        (f"{address}/nothing.csv", "does not exist"),
        (f"{address}/empty/", "links to no files.*list of URLs"),
        (f"http://127.0.0.1:{closed_port()}/x.csv", "check the address"),
        ("http://no-such-host.invalid/x.csv", "check the address"),
        (address.replace("http://", "https://") + "/x.csv", "does not speak TLS"),
        (f"zip://::{address}/nothing.zip", r"nothing\.zip: there is no such file"),
    ]
    start = time.monotonic()
    for uri, message in cases:
        with pytest.raises((ValueError, ReadError), match=message):
            listed(uri)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("uri", "protocol", "path", "inner"),
    [
        ("s3://b/a::b.png", "s3", "b/a::b.png", None),
        ("/data/a::b.png", "file", "/data/a::b.png", None),
        ("zip://a::b.png::s3://b/x.zip", "zip", "/a::b.png", "s3://b/x.zip"),
        ("tar://::/data/x::y.tar", "tar", "/", "/data/x::y.tar"),
        ("zip://a.png::simplecache::s3://b/x.zip", "zip", "/a.png", "simplecache::s3://b/x.zip"),
        ("simplecache::https://h/x/a.png", "simplecache", "https://h/x/a.png", "https://h/x/a.png"),
        ("S3://b/x", "s3", "b/x", None),
        ("https://h/x?y=a::b", "https", "https://h/x?y=a::b", None),
    ],
)
def test_uris_are_split_where_they_should(uri: str, protocol: str, path: str, inner: str | None) -> None:
    parts = split_uri(uri)
    assert (parts.protocol, parts.path, parts.inner) == (protocol, path, inner)


def test_a_storage_in_an_archive_survives_the_way_to_another_process(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "x.zip").write_bytes(pack("zip"))
    inside = Storage.open(f"zip://pictures::{tmp_path}/x.zip", StorageOptions({}))
    again = pickle.loads(pickle.dumps(inside))
    assert again.read_bytes(again.join("a", "1.png")) == PICTURES["a/1.png"]
