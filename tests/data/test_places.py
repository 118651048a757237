"""Entries of a list mean the same on a disk and in a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from moco_ray.data.places import place_of
from moco_ray.storage.storage import Storage
from tests.data.small import png
from tests.data.test_sources import build, contents, names, put
from tests.s3 import open_storage

WAYS = [
    "img/0.png",
    "./img/0.png",
    "img//0.png",
    "img/./0.png",
    "img\\0.png",
    ".\\img\\0.png",
    "  img/0.png ",
    "img/x/../0.png",
    "../{folder}/img/0.png",
]


@pytest.mark.parametrize("end", ["csv", "jsonl"])
def test_every_way_to_write_a_place_finds_the_image(folder: Storage, end: str) -> None:
    put(folder, "img/0.png", "img/1.png")
    name = folder.root.rsplit("/", 1)[-1]
    for way in WAYS:
        entry = way.format(folder=name)
        escaped = entry.replace("\\", "\\\\")
        text = f"uri\n{entry}\n" if end == "csv" else f'{{"uri": "{escaped}"}}\n'
        folder.write_bytes(folder.join(f"list.{end}"), text.encode())
        manifest = build(folder.uri(folder.join(f"list.{end}")))
        assert names(manifest, folder) == ["img/0.png"], way
        assert contents(manifest) == [png(0)]


def test_urls_of_local_files_and_the_home_folder_are_local_paths(
    tmp_path: Path, folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for entry in (
        "file:///a/b%20c.png",
        "file://localhost/a/b%20c.png",
        "file:/a/b%20c.png",
        "/a/b c.png",
        "/a//x/../b c.png",
    ):
        assert place_of(entry, folder, folder.root) == "/a/b c.png"
    assert place_of("~/a.png", folder, folder.root) == "/home/someone/a.png"
    assert place_of("~.png", folder, folder.root).endswith("/~.png")


@pytest.mark.parametrize(
    "uri", ["s3://b/a//b.png", "s3://b/./x.png", "https://host/a%20b.png?x=1&y=a//b", "s3://b/a\\b.png"]
)
def test_other_protocols_are_taken_as_written(folder: Storage, uri: str) -> None:
    assert place_of(uri, folder, folder.root) == uri


def test_a_place_above_the_bucket_is_refused_and_names_the_row(folder: Storage) -> None:
    if folder.protocol == "file":
        return
    folder.write_bytes(folder.join("list.csv"), b"uri\na.png\n../../../x.png\n")
    with pytest.raises(ValueError, match=r"list\.csv, line 3: '\.\./\.\./\.\./x\.png' leads out of s3://"):
        build(folder.uri(folder.join("list.csv")))


@pytest.mark.parametrize("entry", ["C:\\images\\0.png", "d:/images/0.png", "\\\\server\\share\\0.png"])
def test_paths_of_windows_machines_are_refused(tmp_path: Path, entry: str) -> None:
    (tmp_path / "list.csv").write_text(f"uri\n{entry}\n")
    with pytest.raises(ValueError, match="path of a Windows machine"):
        build(str(tmp_path / "list.csv"))


def test_images_as_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds an image as text"):
        place_of("data:image/png;base64,iVBORw0KGgo", open_storage(str(tmp_path)), str(tmp_path))


def test_a_step_upwards_from_a_link_is_what_the_system_makes_of_it(tmp_path: Path) -> None:
    (tmp_path / "real" / "lists").mkdir(parents=True)
    (tmp_path / "real" / "0.png").write_bytes(png(0))
    (tmp_path / "link").symlink_to(tmp_path / "real" / "lists")
    (tmp_path / "link" / "list.csv").write_text("uri\n../0.png\n")
    assert contents(build(str(tmp_path / "link" / "list.csv"))) == [png(0)]
