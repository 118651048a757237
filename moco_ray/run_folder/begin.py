"""Begin a run in its folder, with nothing trained yet or from a checkpoint of another run."""

from __future__ import annotations

import json

from moco_ray.config import Config, experiment_differences, from_json, to_json
from moco_ray.data.manifest import Images, Manifest
from moco_ray.run_folder.checkpoint import CheckpointStore
from moco_ray.run_folder.metrics import parts_before
from moco_ray.run_folder.names import CONFIG as CONFIG
from moco_ray.run_folder.names import EVAL_MANIFEST as EVAL_MANIFEST
from moco_ray.run_folder.names import LINEAGE as LINEAGE
from moco_ray.run_folder.names import MANIFEST as MANIFEST
from moco_ray.storage.storage import Storage


def is_run(run: Storage) -> bool:
    """Whether a folder holds a run."""
    return run.exists(run.join(CONFIG))


def stored_images(run: Storage) -> Images:
    """The images that a run or a sweep was begun with."""
    has_test = run.exists(run.join(EVAL_MANIFEST))
    test = Manifest.read(run, run.join(EVAL_MANIFEST)) if has_test else None
    return Images(train=Manifest.read(run, run.join(MANIFEST)), test=test)


def write_images(run: Storage, images: Images) -> None:
    """Keep the images that a run or a sweep begins with."""
    images.train.write(run, run.join(MANIFEST))
    if images.test is not None:
        images.test.write(run, run.join(EVAL_MANIFEST))
    for name, content in images.notes.items():
        run.write_bytes(run.join(name), content)


def begin_run(run: Storage, config: Config, images: Images) -> None:
    """Write what every run's folder holds from the start.

    Args:
        run: The folder.
        config: With every automatic value decided.
        images: Its images.
    """
    write_images(run, images)
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
