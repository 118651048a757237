"""What a listing tells of bad images is said at once, by name, and held against the limit."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moco_ray.config import Config
from moco_ray.config.data import DataConfig
from moco_ray.data.known_bad import bad_lines, known_bad, say_known_bad
from moco_ray.data.manifest import Manifest
from moco_ray.data.reading import read_rows
from moco_ray.data.sources import build_manifest
from moco_ray.driver.dry_run import dry_run
from moco_ray.storage.storage import resolve_storage_options
from moco_ray.tasks.pretraining import PRETRAINING
from tests.data.small import NO_OPTIONS, manifest_of, write_files
from tests.runs import tiny_config
from tests.s3 import S3Server, open_storage


def _by_name(manifest: Manifest) -> dict[str, str]:
    return {Path(manifest.uri(row)).name: reason for row, reason in known_bad(manifest).items()}


def _spoil(folder: Path) -> None:
    """Files 0 to 5 are none any more, or empty."""
    for i in range(6):
        (folder / f"{i:05d}.png").unlink()
    (folder / "00000.png").symlink_to("nowhere")
    (folder / "00001.png").symlink_to("00001.png")
    os.mkfifo(folder / "00002.png")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "00003.png"))
    server.close()
    (folder / "00004.png").write_bytes(b"")
    (folder / "00005.png").symlink_to("/dev/null")


REASONS = {
    "00000.png": "a link to nowhere, which is not there",
    "00001.png": "a link that leads back to itself",
    "00002.png": "a pipe, no file",
    "00003.png": "a socket, no file",
    "00004.png": "empty file",
    "00005.png": "a device, no file",
}


def test_a_folder_with_links_to_nowhere_and_pipes_is_listed_and_they_are_known(tmp_path: Path) -> None:
    _spoil(write_files(tmp_path, 20))
    assert _by_name(manifest_of(tmp_path)) == REASONS


def test_reading_gives_the_reasons_that_the_listing_gave(tmp_path: Path) -> None:
    _spoil(write_files(tmp_path, 20))
    manifest = manifest_of(tmp_path)
    found = read_rows(manifest, np.arange(6), NO_OPTIONS)
    assert [str(found[i]) for i in (0, 1, 2, 3, 5)] == [REASONS[f"{i:05d}.png"] for i in (0, 1, 2, 3, 5)]
    assert found[4] == b""


def test_missing_files_of_a_list_are_known(tmp_path: Path) -> None:
    _spoil(write_files(tmp_path / "images", 8))
    names = [f"images/{i:05d}.png" for i in range(8)] + ["images/gone.png", "images", "images/00007.png/x.png"]
    (tmp_path / "list.csv").write_text("uri\n" + "\n".join(names) + "\n")
    manifest = build_manifest(DataConfig(uri=str(tmp_path / "list.csv")), NO_OPTIONS)
    assert _by_name(manifest) == REASONS | {
        "gone.png": "there is no such file or folder",
        "images": "a folder, no file",
        "x.png": "Not a directory",
    }


def test_of_a_bucket_empty_objects_are_known(s3: S3Server) -> None:
    folder = open_storage(f"s3://{s3.bucket}/known")
    for name, content in {"a.png": b"1", "b.png": b"", "c.png": b"2"}.items():
        folder.write_bytes(folder.join(name), content)
    uri = folder.uri(folder.root)
    manifest = build_manifest(DataConfig(uri=uri), resolve_storage_options(uri, None))
    assert _by_name(manifest) == {"b.png": "empty file"}


def test_what_is_known_is_said_together_and_held_against_the_limit(tmp_path: Path, said: list[str]) -> None:
    _spoil(write_files(tmp_path, 60))
    manifest = manifest_of(tmp_path)
    say_known_bad(manifest, 0.1)
    assert "6 of 60 images are bad already" in said[0]
    assert said[1:] == [f"  {tmp_path / name}: {reason}" for name, reason in sorted(REASONS.items())]
    with pytest.raises(ValueError, match=r"6 of 60 images are bad.*0\.09; mend or remove(.|\n)*00005\.png: a device"):
        say_known_bad(manifest, 0.09)
    held_out = manifest.with_holdout(np.arange(60) < 3)  # bad ones that training never sees do not count
    say_known_bad(held_out, 0.06)
    for path in list(tmp_path.iterdir())[6:]:
        path.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"  and \d\d more"):
        say_known_bad(manifest, 0.1)


def _dry_config(folder: Path, limit: float) -> Config:
    config = tiny_config(folder, folder.parent / "runs")
    return replace(config, data=replace(config.data, max_bad_fraction=limit))


def test_a_dry_run_says_what_is_bad_and_refuses_what_the_run_would(tmp_path: Path) -> None:
    """Of 60 images 6 are no files and 12 do not decode."""
    _spoil(write_files(tmp_path / "images", 60, {i: b"no image" for i in range(6, 18)}))
    said: list[str] = []
    dry_run(PRETRAINING, _dry_config(tmp_path / "images", 0.5), say=said.append)
    assert sum("which is not there" in line for line in said) >= 1
    with pytest.raises(ValueError, match=r"18 of 60 images are bad"):
        dry_run(PRETRAINING, _dry_config(tmp_path / "images", 0.2), say=said.append)
    with pytest.raises(ValueError, match=r"6 of 60 images are bad.*data\.max-bad-fraction 0\.02"):
        dry_run(PRETRAINING, _dry_config(tmp_path / "images", 0.02), say=said.append)


def test_a_dry_run_refuses_a_folder_without_any_good_image_whatever_the_limit(tmp_path: Path) -> None:
    write_files(tmp_path / "images", 40, dict.fromkeys(range(40), b"no image"))
    with pytest.raises(ValueError, match=r"40 of 40 images are bad"):
        dry_run(PRETRAINING, _dry_config(tmp_path / "images", 1.0), say=lambda line: None)


def test_text_that_is_too_long_for_a_name_is_cut() -> None:
    lines = bad_lines([("/a/" + "x" * 5000, "File name too long"), ("/a/" + "y" * 200, "empty file")])
    assert lines[0] == f"  /a/{'x' * 57}… (5,003 characters, which may be no place of an image): File name too long"
    assert lines[1] == f"  /a/{'y' * 200}: empty file"
