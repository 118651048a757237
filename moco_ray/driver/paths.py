"""Paths that every node of a cluster must be able to use: found out before the workers start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from moco_ray.config import Config
from moco_ray.config.paths import local_path
from moco_ray.data.manifest import Manifest
from moco_ray.storage.options import check_options
from moco_ray.storage.uris import is_local

_EXAMPLES = {"run.storage-path": "s3://bucket/runs", "data.uri": "s3://bucket/images", "eval.uri": "s3://bucket/test"}
_UNPACKED_JOBS = "working_dir_files"  # Ray unpacks a submitted job into a folder of this name, and deletes it
_CHECK_TIMEOUT_S = 120.0
_LOOKED_FOR = 1000  # images that may be missing before one is there


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
    paths = {"run.storage-path": config.run.storage_path, "data.uri": config.data.uri, "eval.uri": config.eval.uri}
    for name, path in paths.items():
        if path and "<" in path and ">" in path:
            raise ValueError(
                f"{name} {path} still has a placeholder in it; write your own value, such as {_EXAMPLES[name]}"
            )
        if path and path.startswith("memory://") and config.run.num_workers != 0:
            raise ValueError(
                f"{name} {path}: memory:// is the memory of one process, which the workers do not see; use "
                "--run.num-workers 0, or a folder"
            )
        if path and _is_submitted() and "://" not in path and not os.path.isabs(os.path.expanduser(path)):
            raise ValueError(
                f"{name} {path!r} is relative, and a submitted job runs in a temporary copy of its folder that is deleted "
                f"afterwards; use storage that outlives it: --{name} {_EXAMPLES[name]}"
            )


def _is_submitted() -> bool:
    """Whether this process runs in the unpacked copy of a job's folder."""
    return _UNPACKED_JOBS in Path.cwd().parts


def check_visible(run_file: str | None, config: Config, manifest: Manifest) -> None:
    """Look for local files from every node of the cluster, where there is more than one.

    Args:
        run_file: A file in the run's folder; None if that is not local.
        config: Names the paths.
        manifest: The images; the first one that is here is looked for, if they are local files.

    Raises:
        ValueError: A node does not see them.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    some = manifest.table["uri"].slice(0, _LOOKED_FOR).to_pylist()
    images = [local_path(uri) for uri in some] if is_local(some[0]) else []
    image = next(filter(os.path.exists, images), images[0]) if images else None
    wanted = {
        "run.storage-path": (config.run.storage_path, run_file),
        "data.uri": (config.data.uri, image),
    }
    files = [path for _, path in wanted.values() if path is not None]
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in alive}
    if not files or len(nodes) < 2:
        return

    def unseen(paths: list[str]) -> list[str]:
        return [path for path in paths if not os.path.exists(path)]

    task: Any = ray.remote(num_cpus=0)(unseen)
    found = {
        node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True)).remote(files)
        for node in nodes
    }
    for node, reference in found.items():
        missing = ray.get(reference, timeout=_CHECK_TIMEOUT_S)
        for name, (value, path) in wanted.items():
            if path is not None and path in missing:
                raise ValueError(
                    f"{name} {value} is a local path, and the node {nodes[node]} does not see it; use storage that all "
                    f"nodes share: --{name} {_EXAMPLES[name]}, or a folder that is mounted on all of them"
                )
