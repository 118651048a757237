"""Addresses that name no place, and folders of the web behind a cache."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco_ray.cli.pretrain import main, parse
from moco_ray.config.data import DataConfig
from moco_ray.data.reading import read_rows
from moco_ray.data.sources import build_manifest
from moco_ray.storage.storage import resolve_storage_options
from tests.web import web_server


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("ftp://127.0.0.1:1/x", "ftp://127.0.0.1:1/x: [Errno 111] Connection refused"),
        ("s3://", "s3:// names no bucket; write s3://bucket/folder"),
        ("s3:///x", "s3:///x names no bucket"),
        ("http://", "http:// names no host; write http://example.org/folder"),
        ("https:///a/b", "https:///a/b names no host"),
        ("zip://a::s3:///x.zip", "s3:///x.zip names no bucket"),
        ("/dev/null", "/dev/null is neither a file nor a folder"),
    ],
)
def test_an_address_that_names_no_place_is_refused_at_once(
    uri: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    arguments = ["--preset", "smoke", "--run.num-workers", "0", "--run.storage-path", str(tmp_path), "--data.uri", uri]
    assert main([*arguments, "--dry-run"]) in (1, 2)
    assert said in " ".join(capsys.readouterr().err.replace("│", "").split())
    assert time.monotonic() - start < 5


def test_results_in_no_bucket_are_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--preset", "smoke", "--run.num-workers", "0", "--data.uri", str(tmp_path), "--run.storage-path"]
    assert main([*arguments, "s3://"]) == 2
    assert "s3:// names no bucket" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "meant"),
    [("--optim.name", "--optim.optimizer"), ("--optim.type", "--optim.optimizer"), ("--optim.seed", "--run.seed")],
)
def test_a_flag_of_another_name_is_found(flag: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean {meant}"):
        parse([flag, "sgd"])


@pytest.mark.parametrize("cache", ["simplecache", "filecache"])
def test_a_page_of_links_behind_a_cache_is_a_folder(cache: str, tmp_path: Path) -> None:
    for i, name in enumerate(("a.png", "b c.png", "sub/d.png")):
        path = tmp_path / "web" / "good" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(path)
    with web_server(tmp_path / "web") as address:
        uri = f"{cache}::{address}/good/"
        options = resolve_storage_options(uri, f'{{"{cache}": {{"cache_storage": "{tmp_path / "copies"}"}}}}')
        manifest = build_manifest(DataConfig(uri=uri), options)
        assert len(manifest) == 3
        data = read_rows(manifest, np.arange(3), options)
        wanted = {path.read_bytes() for path in (tmp_path / "web").rglob("*.png")}
        assert set(data) == wanted
