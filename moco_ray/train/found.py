"""Begin a run in its folder, with nothing trained yet or from a checkpoint of another run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from moco_ray.config import Config, experiment_differences, from_json, to_json
from moco_ray.data.known_bad import say_known_bad
from moco_ray.data.manifest import Manifest
from moco_ray.data.sources import build_manifest
from moco_ray.data.storage import Storage, resolve_storage_options
from moco_ray.train.checkpoint import CheckpointStore
from moco_ray.train.metrics import parts_before

MANIFEST, EVAL_MANIFEST, CONFIG = "manifest.parquet", "eval_manifest.parquet", "config.json"
LINEAGE = "lineage.jsonl"

Say = Callable[[str], None]


def is_run(run: Storage) -> bool:
    """Whether a folder holds a run."""
    return run.exists(run.join(CONFIG))


def list_eval_images(config: Config, say: Say) -> Manifest:
    """List the images of eval.uri.

    Raises:
        ValueError: They have no labels.
    """
    say(f"listing {config.eval.uri}")
    options = resolve_storage_options(config.eval.uri, config.data.storage_options)
    manifest = build_manifest(replace(config.data, uri=config.eval.uri), options, say)
    if len(manifest.classes) < 2:
        raise ValueError(f"eval.uri {config.eval.uri} has no labels; use a folder with one sub-folder for each class")
    say_known_bad(manifest, None, say)
    return manifest


def found_run(run: Storage, config: Config, manifest: Manifest, eval_manifest: Manifest | None) -> None:
    """Write what every run's folder holds from the start.

    Args:
        run: The folder.
        config: With every automatic value decided.
        manifest: The images.
        eval_manifest: Those of eval.uri, if it is given.
    """
    manifest.write(run, run.join(MANIFEST))
    if eval_manifest is not None:
        eval_manifest.write(run, run.join(EVAL_MANIFEST))
    write_config(run, config)


def branch_run(donor: Storage, step: int, run: Storage, config: Config) -> None:
    """Begin a run that goes on from a checkpoint of another one, under other hyper-parameters.

    The new run holds copies of the donor's manifests, metrics up to that step and checkpoint: weights of both encoders,
    queue, optimizer and data position. Its lineage.jsonl tells which steps were done where, under what.

    Args:
        donor: The other run's folder.
        step: Steps of one of its checkpoints.
        run: The new folder. Whatever an attempt that was cut short has left there is replaced.
        config: Of the new run; it may differ in what the checkpoint's shapes and position do not depend on.

    Raises:
        ValueError: There is no such checkpoint, or it does not fit the new configuration.
    """
    source, target = CheckpointStore(storage=donor), CheckpointStore(storage=run)
    state, marker = source.read(step), source.marker(step)
    before = from_json(state["config"])
    if before.optim.global_batch_size != config.optim.global_batch_size:
        raise ValueError(
            f"optim.global-batch-size was {before.optim.global_batch_size} in {donor.uri(donor.root)}, now "
            f"{config.optim.global_batch_size}: the position in the data would be another; use the old value"
        )
    for name in (MANIFEST, EVAL_MANIFEST):
        if donor.exists(donor.join(name)):
            run.write_bytes(run.join(name), donor.read_bytes(donor.join(name)))
    lineage = donor.read_bytes(donor.join(LINEAGE)) if donor.exists(donor.join(LINEAGE)) else b""
    line = {"until_step": step, "run": donor.root.rsplit("/", 1)[-1], "changed": experiment_differences(before, config)}
    run.write_bytes(run.join(LINEAGE), lineage + json.dumps(line).encode() + b"\n")
    info: dict[str, object] = {name: marker[name] for name in ("position", "versions")}
    target.write(step, {**state, "config": to_json(config)}, parts_before(donor, step), info)
    write_config(run, config)


def write_config(run: Storage, config: Config) -> None:
    """Write config.json, which comes last: without it a folder holds no run."""
    run.write_bytes(run.join(CONFIG), to_json(config).encode())
