"""What a run says and refuses at once, before anything is imported that takes seconds."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace

from moco_ray.config import Config


def name_run(config: Config) -> Config:
    """The configuration with a name for the run.

    Raises:
        ValueError: There are no images to train on, or the name is none of a folder.
    """
    check_uri(config)
    name = config.run.name or f"{config.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    check_name(name)
    return replace(config, run=replace(config.run, name=name))


def check_uri(config: Config) -> None:
    """Check that images were named.

    Raises:
        ValueError: They were not.
    """
    if not config.data.uri:
        raise ValueError("data.uri is missing; name a folder of images, a manifest or Parquet files: --data.uri URI")


def check_name(name: str) -> None:
    """Check that a run or sweep can have a folder of that name.

    Raises:
        ValueError: It cannot.
    """
    if "/" in name or name in (".", "..") or not name.isprintable():
        raise ValueError(f"run.name {name!r} must be the name of a folder, without slashes or control characters")


def resume_line(name: str, command: str | None) -> str:
    """The first line of a run.

    Args:
        name: Of the run.
        command: What resumes it, with {name} for the name.
    """
    command = (command or "call moco_ray.pretrain again with run.name {name}").format(name=shlex.quote(name))
    return f"run {name}; to resume it: {command}"
