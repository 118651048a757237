"""The photos that benchmarks read."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.photos import jpegs_of, shipped_photos, shipped_small, spread


@pytest.mark.parametrize("name", ["photos.tar", "photos.tar.xz"])
def test_an_archive_gives_the_jpegs_of_its_folder_in_the_order_of_names(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    contents = {"b/2.JPG": b"second", "b/10.jpeg": b"first", "a.jpg": b"zeroth", "LICENSE": b"text"}
    for path, content in contents.items():
        (folder / path).write_bytes(content)
    with tarfile.open(tmp_path / name, "w:xz" if name.endswith("xz") else "w") as archive:
        archive.add(folder, "photos")
    assert jpegs_of(folder) == jpegs_of(tmp_path / name) == [b"zeroth", b"first", b"second"]


def test_shipped_photos_are_jpegs_of_the_size_asked_for() -> None:
    assert all(Image.open(io.BytesIO(photo)).width <= 500 for photo in shipped_photos(500))
    small = shipped_small(32)
    assert len(small) > 200 and all(Image.open(io.BytesIO(image)).size == (32, 32) for image in small[::20])


def test_spread_takes_first_and_last_and_all_where_there_are_few() -> None:
    images = [bytes([i]) for i in range(100)]
    assert spread(images, 3)[0] == images[0] and spread(images, 3)[-1] == images[-1]
    assert spread(images[:5], 9) == images[:5]
