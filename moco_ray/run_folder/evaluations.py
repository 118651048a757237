"""evaluations/: what else has been measured of a run's encoder, one small file each."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from moco_ray.config import from_json
from moco_ray.run_folder.checkpoint_files import STATE
from moco_ray.run_folder.names import CONFIG
from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import without_secrets

FOLDER = "evaluations"
_LONGEST = 60


def run_of_encoder(encoder: Storage) -> Storage | None:
    """The run's folder that an encoder, a checkpoint or a state lies in, or that it is; None: it is of no run."""
    place = encoder.root
    for _ in range(3 if place.endswith(f"/{STATE}") else 2):
        folder = replace(encoder, root=place)
        with suppress(ValueError):  # another program's config.json
            if folder.is_file(folder.join(CONFIG)):
                from_json(folder.read_bytes(folder.join(CONFIG)).decode())
                return folder
        place = place.rpartition("/")[0]
        if not place or place.endswith(("/", ":")):
            break
    return None


def write_evaluation(run: Storage, kind: str, name: str, values: Mapping[str, Any]) -> None:
    """Keep what was measured; the same of the same step again replaces what was there.

    Args:
        run: The folder of the run that trained the encoder.
        kind: As "linear probe".
        name: What tells it from others of its kind: a run's name or a place of images.
        values: data, step (of the encoder), measures (name -> number).
    """
    line = {"kind": kind, "name": without_secrets(name), "at_s": round(time.time(), 1), **values}
    step = "" if values.get("step") is None else f"-step{values['step']}"
    path = run.join(FOLDER, f"{_plain(kind.replace(' ', '-'))}-{_plain(without_secrets(name))}{step}.json")
    run.write_bytes(path, (json.dumps(line, indent=1) + "\n").encode())


def _plain(text: str) -> str:
    """A text as part of a file's name; what it loses is in a digest."""
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")
    if plain == text and len(plain) <= _LONGEST:
        return plain
    return f"{plain[-_LONGEST:].strip('-.')}-{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
