"""Whether every node of a cluster sees the files of a run: found out before the workers start."""

from __future__ import annotations

import os
from typing import Any

from moco_ray.config import Config
from moco_ray.config.paths import local_path
from moco_ray.data.manifest import Manifest
from moco_ray.storage.uris import is_local

EXAMPLES = {
    "run.storage-path": "s3://bucket/runs",
    "data.uri": "s3://bucket/images",
    "eval.uri": "s3://bucket/test",
    "detection.annotations": "s3://bucket/train.json",
    "detection.test-annotations": "s3://bucket/test.json",
}
_CHECK_TIMEOUT_S = 120.0
_LOOKED_FOR = 1000  # images that may be missing before one is there


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
                    f"nodes share: --{name} {EXAMPLES[name]}, or a folder that is mounted on all of them"
                )
