"""What is left of bad images is shown, and no program is started over them."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco_ray.driver.images.listing import list_images
from moco_ray.report.bad_images import write_bad_images
from moco_ray.storage.storage import Storage, StorageOptions
from tests.runs import tiny_config


def _encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def test_what_decodes_is_shown_and_no_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, run, programs = tmp_path / "images", tmp_path / "run", tmp_path / "programs"
    for folder in (images, run, programs):
        folder.mkdir()
    (images / "cut.png").write_bytes(_encoded("PNG")[:-2000])
    (images / "postscript.jpg").write_bytes(_encoded("EPS"))
    (programs / "gs").write_text(f"#!/bin/sh\necho ran >> {tmp_path}/log\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (run / "bad_images.jsonl").write_text('{"row": 0}\n{"row": 1}\n')
    manifest = list_images(tiny_config(images, tmp_path / "runs")).train
    options = StorageOptions({})
    write_bad_images(Storage.open(str(run), options), manifest, options)
    tiles = dict(json.loads((run / "report" / "bad.json").read_text())["tiles"])
    shown = {manifest.uri(row).rsplit("/", 1)[-1]: src for row, src in tiles.items()}
    assert shown["cut.png"].startswith("data:image/webp;base64,") and shown["postscript.jpg"] is None
    assert not (tmp_path / "log").exists()
