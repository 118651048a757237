"""Paths that every node of a cluster must be able to use: found out before the workers start."""

from __future__ import annotations

import os
from pathlib import Path

from moco_ray.cluster.visible import EXAMPLES
from moco_ray.config import Config
from moco_ray.storage.options import check_options

_UNPACKED_JOBS = "working_dir_files"  # Ray unpacks a submitted job into a folder of this name, and deletes it


def check_paths(config: Config) -> None:
    """Refuse what a submitted job would write into, or read from, the temporary copy of its working directory.

    Raises:
        ValueError: Storage options cannot be read; a path is relative, or storage options are written out, under a submitted job; or a placeholder was
            left in a path.
    """
    options = {"run.storage-options": config.run.storage_options, "data.storage-options": config.data.storage_options}
    for name, text in options.items():
        check_options(f"--{name}", text)
        if _is_submitted() and text and text.lstrip().startswith("{"):
            raise ValueError(
                f"{name} holds options in the command line, and Ray writes the command of a submitted job into its log; "
                f"put them into a file on the head and name it: --{name} /path/options.json. Replace keys that were in it"
            )
    paths = {
        "run.storage-path": config.run.storage_path,
        "data.uri": config.data.uri,
        "eval.uri": config.eval.uri,
        "detection.annotations": config.detection.annotations,
        "detection.test-annotations": config.detection.test_annotations,
    }
    for name, path in paths.items():
        if path and "<" in path and ">" in path:
            raise ValueError(
                f"{name} {path} still has a placeholder in it; write your own value, such as {EXAMPLES[name]}"
            )
        if path and path.startswith("memory://") and config.run.num_workers != 0:
            raise ValueError(
                f"{name} {path}: memory:// is the memory of one process, which the workers do not see; use "
                "--run.num-workers 0, or a folder"
            )
        if path and _is_submitted() and "://" not in path and not os.path.isabs(os.path.expanduser(path)):
            raise ValueError(
                f"{name} {path!r} is relative, and a submitted job runs in a temporary copy of its folder that is deleted "
                f"afterwards; use storage that outlives it: --{name} {EXAMPLES[name]}"
            )


def _is_submitted() -> bool:
    """Whether this process runs in the unpacked copy of a job's folder."""
    return _UNPACKED_JOBS in Path.cwd().parts
