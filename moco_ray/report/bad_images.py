"""What is left of bad images: thumbnails of those of which a part decodes, made in a process of their own."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from moco_ray.data.manifest import Manifest
from moco_ray.data.reading import read_rows
from moco_ray.report.thumbs import write_json
from moco_ray.storage.storage import Storage, StorageOptions

log = logging.getLogger(__name__)
_BAD = "bad_images.jsonl"
_MOST, _MOST_BYTES, _PATIENCE_S = 12, 20_000_000, 30
# In a process of its own: what is broken may take long or crash, and how Pillow treats cut files is a global switch.
_SCRIPT = """
import sys, warnings
from pathlib import Path
from PIL import Image, ImageFile
warnings.simplefilter("ignore")
ImageFile.LOAD_TRUNCATED_IMAGES = True
for path in sorted(Path(sys.argv[1]).glob("*.in")):
    try:
        # No others: some of Pillow's plugins start programs on what they read.
        image = Image.open(path, formats=["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "AVIF", "PPM", "TGA"])
        if image.width * image.height > 50_000_000:
            continue
        image.draft("RGB", (112, 112))
        image = image.convert("RGB")
        image.thumbnail((112, 112))
        image.save(path.with_suffix(".webp"), quality=70)
    except Exception:
        pass
"""


def write_bad_images(run: Storage, manifest: Manifest, options: StorageOptions) -> None:
    """Write report/bad.json: of the first bad images what decodes of them. A failure is a warning.

    Args:
        run: The run's folder, with its bad_images.jsonl.
        manifest: The images that it trains on.
        options: Access to them.
    """
    try:
        path = run.join(_BAD)
        lines = run.read_bytes(path).splitlines()[:_MOST] if run.exists(path) else []
        rows = [row for row in (json.loads(line)["row"] for line in lines) if 0 <= row < len(manifest)]
        if rows:
            write_json(run, "bad", {"tiles": _tiles(manifest, rows, options)})
    except Exception as error:  # a picture is no reason to lose a run
        log.warning(f"the bad images could not be shown ({type(error).__name__}: {error})")


def _tiles(manifest: Manifest, rows: list[int], options: StorageOptions) -> list[list[int | str | None]]:
    """Row, and a thumbnail in a URL or None, of each."""
    contents = read_rows(manifest, np.array(sorted(rows)), options)
    with TemporaryDirectory() as folder:
        for row, content in zip(sorted(rows), contents, strict=True):
            if isinstance(content, bytes | memoryview | bytearray) and len(content) <= _MOST_BYTES:
                (Path(folder) / f"{row:012d}.in").write_bytes(content)
        try:
            command = [sys.executable, "-I", "-c", _SCRIPT, folder]
            subprocess.run(command, timeout=_PATIENCE_S, check=False, capture_output=True)
        except subprocess.TimeoutExpired:
            log.info("some bad images take too long to look at; the report shows no picture of them")
        return [[row, _uri(Path(folder) / f"{row:012d}.webp")] for row in rows]


def _uri(path: Path) -> str | None:
    if not path.is_file():
        return None
    return f"data:image/webp;base64,{base64.b64encode(path.read_bytes()).decode()}"
